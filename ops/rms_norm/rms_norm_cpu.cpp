#include <cmath>

#include "ops/rms_norm/rms_norm.h"

// Highway wants its includes in this order.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rms_norm/rms_norm_cpu.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "ops/sixteen-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace limpet::ops::HWY_NAMESPACE {

void NormSlice(const float* x, const float* weight, float* y, size_t n, float eps) {
  const hn::CappedTag<float, 16> d;
  const size_t lanes = hn::Lanes(d), whole = n & ~size_t{15};
  HWY_ALIGN float sums[16] = {};
  for (size_t part = 0; part < 16; part += lanes) {
    auto sum = hn::Zero(d);
    for (size_t i = part; i < whole; i += 16) {
      const auto v = hn::LoadU(d, x + i);
      sum = hn::MulAdd(v, v, sum);
    }
    hn::Store(sum, d, sums + part);
  }
  for (size_t i = whole; i < n; ++i) sums[i - whole] = sums[i - whole] + x[i] * x[i];
  const float mean = SumOfSixteen(sums) / static_cast<float>(n);
  const float scale = 1.0f / std::sqrt(mean + eps);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto scaled = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale));
    hn::StoreU(hn::Mul(scaled, hn::LoadU(d, weight + i)), d, y + i);
  }
  for (; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

}  // namespace limpet::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace limpet::ops {

HWY_EXPORT(NormSlice);

void run(const RmsNorm& op, CpuContext& cpu, const Args& a) {
  const TensorView &x = a.in[0], &y = a.out[0];
  const int64_t n = a.in[1].cols();
  cpu.parallel_for(true_rows(a, y.rows()), [&](int64_t r, int) {
    for (int64_t h = 0; h < op.heads; ++h) {
      HWY_DYNAMIC_DISPATCH(NormSlice)
      (x.as<float>() + r * x.stride() + h * n, a.in[1].as<float>(),
       y.as<float>() + r * y.stride() + h * n, static_cast<size_t>(n), op.eps);
    }
  });
}

}  // namespace limpet::ops
#endif
