#include "ops/silu_mul/silu_mul.h"
#include "ops/silu_mul/silu_mul_row.h"

// Highway wants its includes in this order.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/silu_mul/silu_mul_cpu.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace limpet::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V>
HWY_INLINE V SiluMulOf(D d, V a, V b) {
  // exp overflows beyond 88; silu is 0 in f32 long before.
  const V e = hn::Exp(d, hn::Min(hn::Neg(a), hn::Set(d, 88.0f)));
  return hn::Mul(hn::Div(a, hn::Add(hn::Set(d, 1.0f), e)), b);
}

void SiluMulRow(const float* a, const float* b, float* y, size_t n) {
  const hn::CappedTag<float, 16> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(SiluMulOf(d, hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, y + i);
  }
  if (i == n) return;
  HWY_ALIGN float tail_a[16] = {}, tail_b[16] = {};
  for (size_t j = i; j < n; ++j) tail_a[j - i] = a[j], tail_b[j - i] = b[j];
  hn::Store(SiluMulOf(d, hn::Load(d, tail_a), hn::Load(d, tail_b)), d, tail_a);
  for (size_t j = i; j < n; ++j) y[j] = tail_a[j - i];
}

}  // namespace limpet::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace limpet::ops {

HWY_EXPORT(SiluMulRow);

void silu_mul_row(const float* a, const float* b, float* y, size_t n) {
  HWY_DYNAMIC_DISPATCH(SiluMulRow)(a, b, y, n);
}

void run(const SiluMul&, CpuContext& cpu, const Args& args) {
  const TensorView &a = args.in[0], &b = args.in[1], &y = args.out[0];
  cpu.parallel_for(true_rows(args, y.rows()), [&](int64_t r, int) {
    silu_mul_row(a.as<float>() + r * a.stride(), b.as<float>() + r * b.stride(),
                 y.as<float>() + r * y.stride(), static_cast<size_t>(y.cols()));
  });
}

}  // namespace limpet::ops
#endif
