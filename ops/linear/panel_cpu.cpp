#include <algorithm>
#include <cstring>

#include "ops/linear/bf16_dot.h"
#include "ops/linear/panel.h"

// Highway wants its includes in this order.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear/panel_cpu.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace limpet::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Lanes = hn::CappedTag<float, 16>;
constexpr size_t kLanes = hn::MaxLanes(Lanes());
constexpr size_t kVectors = 32 / kLanes;  // that hold one row's sums
// As many rows at once as registers hold sums for.
constexpr size_t kRowsAtOnce = kLanes >= 16 ? 8 : kLanes >= 8 ? 2 : 1;

template <size_t kRows>
HWY_INLINE void RowsF32(const char* x, size_t stride, const float* panel, size_t k, float* sums) {
  const Lanes d;
  hn::Vec<Lanes> sum[kRows * kVectors];
  for (auto& s : sum) s = hn::Zero(d);
  for (size_t i = 0; i < k; ++i, panel += 32) {
    for (size_t r = 0; r < kRows; ++r) {
      const auto xi = hn::Set(d, reinterpret_cast<const float*>(x + r * stride)[i]);
      for (size_t v = 0; v < kVectors; ++v) {
        auto& s = sum[r * kVectors + v];
        s = hn::MulAdd(xi, hn::Load(d, panel + v * kLanes), s);
      }
    }
  }
  for (size_t i = 0; i < kRows * kVectors; ++i) hn::StoreU(sum[i], d, sums + i * kLanes);
}

// Rounded x: the products are exact, and the odd one comes first, as in the dot-product
// instruction. Any other x (kRounded false): k is one chain in order, as in RowsF32.
template <bool kRounded, size_t kRows>
HWY_INLINE void RowsBf16(const char* x, size_t stride, const uint32_t* panel, size_t pairs,
                         float* sums) {
  const Lanes d;
  const hn::RebindToUnsigned<Lanes> du;
  hn::Vec<Lanes> sum[kRows * kVectors];
  for (auto& s : sum) s = hn::Zero(d);
  for (size_t p = 0; p < pairs; ++p, panel += 32) {
    for (size_t v = 0; v < kVectors; ++v) {
      const auto both = hn::Load(du, panel + v * kLanes);
      const auto even = hn::BitCast(d, hn::ShiftLeft<16>(both));
      const auto odd = hn::BitCast(d, hn::And(both, hn::Set(du, 0xffff0000u)));
      for (size_t r = 0; r < kRows; ++r) {
        const auto* pair = reinterpret_cast<const float*>(x + r * stride) + 2 * p;
        auto& s = sum[r * kVectors + v];
        if constexpr (kRounded) {
          s = hn::MulAdd(hn::Set(d, pair[1]), odd, s);
          s = hn::MulAdd(hn::Set(d, pair[0]), even, s);
        } else {
          s = hn::MulAdd(hn::Set(d, pair[0]), even, s);
          s = hn::MulAdd(hn::Set(d, pair[1]), odd, s);
        }
      }
    }
  }
  for (size_t i = 0; i < kRows * kVectors; ++i) hn::StoreU(sum[i], d, sums + i * kLanes);
}

// Where no instruction adds a product, lanes are few too, or none: a pass over bf16 weights has
// registers for one row. So a block of them, small enough for the nearest cache, becomes float32
// once, in the order of the sum, for all rows; by the compiler's own vectors.
constexpr bool kUnpacks = kRowsAtOnce == 1 && HWY_NATIVE_FMA == 0;
constexpr size_t kBlockPairs = 64;
using Four = float __attribute__((vector_size(16)));
using FourWhole = uint32_t __attribute__((vector_size(16)));

template <bool kRounded>
HWY_INLINE void Unpack(const uint32_t* panel, size_t pairs, float* block) {
  for (size_t p = 0; p < pairs; ++p, panel += 32, block += 64) {
    for (size_t v = 0; v < 32; v += 4) {
      const auto both = *reinterpret_cast<const FourWhole*>(panel + v);
      const FourWhole even = both << 16, odd = both & 0xffff0000u;
      *reinterpret_cast<FourWhole*>(block + v) = kRounded ? odd : even;
      *reinterpret_cast<FourWhole*>(block + 32 + v) = kRounded ? even : odd;
    }
  }
}

// `element` of x in every lane, times the 32 weights of one k.
template <int kElement>
HWY_INLINE void AddTimes(Four x, const float* weights, Four* sum) {
  const Four all = __builtin_shufflevector(x, x, kElement, kElement, kElement, kElement);
  for (size_t v = 0; v < 8; ++v) sum[v] += reinterpret_cast<const Four*>(weights)[v] * all;
}

// Two pairs a turn: one load brings four elements of x, and a shuffle is less than a load of each.
template <bool kRounded>
HWY_INLINE void AddBlock(const float* x, const float* block, size_t pairs, float* sums) {
  constexpr int kFirst = kRounded ? 1 : 0;
  Four sum[8], some = {};
  std::memcpy(sum, sums, sizeof sum);
  size_t p = 0;
  for (; p + 2 <= pairs; p += 2, x += 4, block += 128) {
    std::memcpy(&some, x, sizeof some);
    AddTimes<kFirst>(some, block, sum);
    AddTimes<1 - kFirst>(some, block + 32, sum);
    AddTimes<2 + kFirst>(some, block + 64, sum);
    AddTimes<3 - kFirst>(some, block + 96, sum);
  }
  if (p < pairs) {
    std::memcpy(&some, x, 2 * sizeof(float));
    AddTimes<kFirst>(some, block, sum);
    AddTimes<1 - kFirst>(some, block + 32, sum);
  }
  std::memcpy(sums, sum, sizeof sum);
}

template <bool kRounded>
HWY_INLINE void MultiplyUnpacked(const char* x, size_t stride, const uint32_t* panel, size_t pairs,
                                 size_t rows, float* sums) {
  alignas(64) float block[kBlockPairs * 64];
  std::fill_n(sums, rows * 32, 0.0f);
  for (size_t p = 0; p < pairs; p += kBlockPairs) {
    const size_t some = std::min(kBlockPairs, pairs - p);
    Unpack<kRounded>(panel + p * 32, some, block);
    for (size_t r = 0; r < rows; ++r) {
      const auto* row = reinterpret_cast<const float*>(x + r * stride) + 2 * p;
      AddBlock<kRounded>(row, block, some, sums + r * 32);
    }
  }
}

void MultiplyF32(const void* x, size_t stride, const void* panel, size_t k, size_t rows,
                 float* sums) {
  const auto* from = static_cast<const char*>(x);
  const auto* weights = static_cast<const float*>(panel);
  size_t r = 0;
  for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) {
    RowsF32<kRowsAtOnce>(from + r * stride, stride, weights, k, sums + r * 32);
  }
  if constexpr (kRowsAtOnce > 2) {
    for (; r + 2 <= rows; r += 2) {
      RowsF32<2>(from + r * stride, stride, weights, k, sums + r * 32);
    }
  }
  for (; r < rows; ++r) RowsF32<1>(from + r * stride, stride, weights, k, sums + r * 32);
}

template <bool kRounded>
HWY_INLINE void MultiplyPairs(const void* x, size_t stride, const void* panel, size_t k,
                              size_t rows, float* sums) {
  const auto* from = static_cast<const char*>(x);
  const auto* weights = static_cast<const uint32_t*>(panel);
  if constexpr (kUnpacks) {
    if (rows > 1) {
      MultiplyUnpacked<kRounded>(from, stride, weights, k / 2, rows, sums);
      return;
    }
  }
  size_t r = 0;
  for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) {
    RowsBf16<kRounded, kRowsAtOnce>(from + r * stride, stride, weights, k / 2, sums + r * 32);
  }
  if constexpr (kRowsAtOnce > 2) {
    for (; r + 2 <= rows; r += 2) {
      RowsBf16<kRounded, 2>(from + r * stride, stride, weights, k / 2, sums + r * 32);
    }
  }
  for (; r < rows; ++r) {
    RowsBf16<kRounded, 1>(from + r * stride, stride, weights, k / 2, sums + r * 32);
  }
}

void MultiplyBf16(const void* x, size_t stride, const void* panel, size_t k, size_t rows,
                  float* sums) {
  MultiplyPairs<true>(x, stride, panel, k, rows, sums);
}

void MultiplyExact(const void* x, size_t stride, const void* panel, size_t k, size_t rows,
                   float* sums) {
  MultiplyPairs<false>(x, stride, panel, k, rows, sums);
}

}  // namespace limpet::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace limpet::ops {
namespace {

HWY_EXPORT(MultiplyF32);
HWY_EXPORT(MultiplyBf16);
HWY_EXPORT(MultiplyExact);

void multiply_f32(const void* x, size_t stride, const void* panel, size_t k, size_t rows,
                  float* sums) {
  HWY_DYNAMIC_DISPATCH(MultiplyF32)(x, stride, panel, k, rows, sums);
}

void multiply_bf16(const void* x, size_t stride, const void* panel, size_t k, size_t rows,
                   float* sums) {
  HWY_DYNAMIC_DISPATCH(MultiplyBf16)(x, stride, panel, k, rows, sums);
}

void multiply_exact(const void* x, size_t stride, const void* panel, size_t k, size_t rows,
                    float* sums) {
  HWY_DYNAMIC_DISPATCH(MultiplyExact)(x, stride, panel, k, rows, sums);
}

// To bf16 and back, padded to an even number.
void round_row(const float* x, size_t k, std::byte* to) {
  auto* out = reinterpret_cast<float*>(to);
  for (size_t i = 0; i < k; ++i) out[i] = f32_from_bf16(bf16_from_f32(x[i]));
  if (k % 2 != 0) out[k] = 0;
}

void pad_row(const float* x, size_t k, std::byte* to) {
  std::copy_n(x, k, reinterpret_cast<float*>(to));
  if (k % 2 != 0) reinterpret_cast<float*>(to)[k] = 0;
}

void round_for_dot(const float* x, size_t k, std::byte* to) {
  bf16_dot()->round(x, k, reinterpret_cast<uint16_t*>(to));
}

PanelKernel kernel_for(DType dtype, size_t k, bool exact, bool dot) {
  const size_t even = k + k % 2;
  if (dtype == DType::f32) return {nullptr, multiply_f32, 0};
  if (dtype == DType::i8) return int8_kernel(k, dot);
  if (exact) return {k % 2 == 0 ? nullptr : pad_row, multiply_exact, even * sizeof(float)};
  if (dot && bf16_dot() != nullptr) {
    return {round_for_dot, bf16_dot()->multiply, even * sizeof(uint16_t)};
  }
  return {round_row, multiply_bf16, even * sizeof(float)};
}

// Less than this is rounded by the calling thread: waking the others takes longer.
constexpr int64_t kElementsToShare = 32768;

}  // namespace

PanelProduct::PanelProduct(CpuContext& cpu, const TensorView& x, int64_t rows,
                           const TensorView& weight, bool exact)
    : x_(x.as<std::byte>()),
      stride_bytes_(static_cast<size_t>(x.stride()) * sizeof(float)),
      panels_(weight.as<std::byte>()),
      panel_bytes_(static_cast<size_t>(panel_bytes(weight.dtype, x.cols()))),
      k_(static_cast<size_t>(x.cols())),
      kernel_(kernel_for(weight.dtype, k_, exact, cpu.bf16_dot())) {
  if (kernel_.prepare != nullptr) prepare(cpu, x, rows);
  if (weight.dtype == DType::bf16) k_ += k_ % 2;
}

void PanelProduct::prepare(CpuContext& cpu, const TensorView& x, int64_t rows) {
  stride_bytes_ = kernel_.row_bytes;
  std::byte* to = cpu.shared_scratch(stride_bytes_ * static_cast<size_t>(rows));
  x_ = to;
  const auto one = [&](int64_t r, int) {
    kernel_.prepare(x.as<float>() + r * x.stride(), k_,
                    to + static_cast<size_t>(r) * stride_bytes_);
  };
  if (rows * x.cols() < kElementsToShare) {
    for (int64_t r = 0; r < rows; ++r) one(r, 0);
  } else {
    cpu.parallel_for(rows, one);
  }
}

void PanelProduct::multiply(int64_t panel, int64_t row, int64_t rows, float* sums) const {
  kernel_.multiply(x_ + static_cast<size_t>(row) * stride_bytes_, stride_bytes_,
                   panels_ + static_cast<size_t>(panel) * panel_bytes_, k_,
                   static_cast<size_t>(rows), sums);
}

}  // namespace limpet::ops
#endif
