// Products with i8 weights: sums within a group of 64 are of whole numbers, so they are the same by
// whatever instructions; the groups' sums are added in float32, in order.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/linear/int8_dot.h"
#include "ops/linear/panel.h"

// Highway wants its includes in this order.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear/panel_int8_cpu.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>
// clang-format on

#ifndef LIMPET_OPS_INT8_ROW_H_
#define LIMPET_OPS_INT8_ROW_H_
namespace limpet::ops {

// A prepared row of x: what multiplies the weights, then the groups' scales f32, then -128 times
// the groups' sums, int32 (the weights stand as integers + 128).
struct Int8Row {
  size_t groups, scales, corrections, bytes;  // of the row; byte offsets
  Int8Row(size_t group_count, size_t bytes_of_element)
      : groups(group_count),
        scales(groups * kInt8Group * bytes_of_element),
        corrections(scales + groups * 4),
        bytes((corrections + groups * 4 + 63) / 64 * 64) {}
};

}  // namespace limpet::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace limpet::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Lanes = hn::CappedTag<float, 16>;
using Whole = hn::RebindToSigned<Lanes>;
constexpr size_t kLanes = hn::MaxLanes(Lanes());
constexpr size_t kVectors = 32 / kLanes;  // that hold one row's sums

template <class T>
HWY_INLINE T ValueAt(const char* from) {
  T v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// sum += the four bytes of each lane of `weights` times the quad of x, which stands as two pairs of
// int16: elements 0 and 2, 1 and 3.
HWY_INLINE hn::Vec<Whole> AddQuad(hn::Vec<hn::RebindToUnsigned<Lanes>> weights, int32_t even,
                                  int32_t odd, hn::Vec<Whole> sum) {
  const Whole d;
  const hn::RebindToUnsigned<Lanes> du;
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
  // There, this operation adds the products of neighbours within their lane.
  const hn::Repartition<int16_t, Whole> d16;
  const hn::Repartition<uint16_t, Whole> du16;
  auto unused = hn::Zero(d);
  const auto low = hn::And(weights, hn::Set(du, 0x00ff00ffu));
  const auto high = hn::ShiftRight<8>(hn::BitCast(du16, weights));
  sum = hn::ReorderWidenMulAccumulate(d, hn::BitCast(d16, low), hn::BitCast(d16, hn::Set(d, even)),
                                      sum, unused);
  return hn::ReorderWidenMulAccumulate(d, hn::BitCast(d16, high), hn::BitCast(d16, hn::Set(d, odd)),
                                       sum, unused);
#else
  const auto byte = hn::Set(du, 0xffu);
  const auto part = [&](auto bytes, int32_t x) {
    return hn::Mul(hn::BitCast(d, bytes), hn::Set(d, x));
  };
  sum = hn::Add(sum, part(hn::And(weights, byte), static_cast<int16_t>(even)));
  sum = hn::Add(sum, part(hn::And(hn::ShiftRight<8>(weights), byte), static_cast<int16_t>(odd)));
  sum = hn::Add(sum, part(hn::And(hn::ShiftRight<16>(weights), byte), even >> 16));
  return hn::Add(sum, part(hn::ShiftRight<24>(weights), odd >> 16));
#endif
}

template <size_t kRows>
HWY_INLINE void GroupInt8(const char* x, size_t stride, const Int8Row& row, size_t group,
                          const uint32_t* panel, float* sums) {
  const Lanes d;
  const Whole dw;
  const hn::RebindToUnsigned<Lanes> du;
  hn::Vec<Whole> sum[kRows * kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    const auto correction = ValueAt<int32_t>(x + r * stride + row.corrections + group * 4);
    for (size_t v = 0; v < kVectors; ++v) sum[r * kVectors + v] = hn::Set(dw, correction);
  }
  const char* quads = x + group * kInt8Group * 2;
  for (size_t q = 0; q < kInt8Group / 4; ++q, panel += 32) {
    for (size_t v = 0; v < kVectors; ++v) {
      const auto weights = hn::Load(du, panel + v * kLanes);
      for (size_t r = 0; r < kRows; ++r) {
        const char* quad = quads + r * stride + q * 8;
        auto& s = sum[r * kVectors + v];
        s = AddQuad(weights, ValueAt<int32_t>(quad), ValueAt<int32_t>(quad + 4), s);
      }
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    const auto scale = hn::Set(d, ValueAt<float>(x + r * stride + row.scales + group * 4));
    for (size_t v = 0; v < kVectors; ++v) {
      float* to = sums + r * 32 + v * kLanes;
      const auto whole = hn::ConvertTo(d, sum[r * kVectors + v]);
      hn::StoreU(hn::MulAdd(scale, whole, hn::LoadU(d, to)), d, to);
    }
  }
}

void MultiplyInt8(const void* x, size_t stride, const void* panel, size_t groups, size_t rows,
                  float* sums) {
  const Int8Row row(groups, 2);
  const auto* from = static_cast<const char*>(x);
  const auto* weights = static_cast<const char*>(panel);
  std::fill_n(sums, rows * 32, 0.0f);
  for (size_t g = 0; g < groups; ++g) {
    const auto* part = reinterpret_cast<const uint32_t*>(weights + g * kInt8Group * 32);
    size_t r = 0;
    for (; r + 2 <= rows; r += 2) {
      GroupInt8<2>(from + r * stride, stride, row, g, part, sums + r * 32);
    }
    for (; r < rows; ++r) GroupInt8<1>(from + r * stride, stride, row, g, part, sums + r * 32);
  }
  const Lanes d;
  const auto* scales = reinterpret_cast<const float*>(weights + groups * kInt8Group * 32);
  for (size_t i = 0; i < rows * 32; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, sums + i), hn::LoadU(d, scales + i % 32)), d, sums + i);
  }
}

}  // namespace limpet::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace limpet::ops {
namespace {

HWY_EXPORT(MultiplyInt8);

size_t groups_of(size_t k) {
  constexpr auto kGroup = static_cast<size_t>(kInt8Group);
  return (k + kGroup - 1) / kGroup;
}

void multiply_int8(const void* x, size_t stride, const void* panel, size_t k, size_t rows,
                   float* sums) {
  HWY_DYNAMIC_DISPATCH(MultiplyInt8)(x, stride, panel, groups_of(k), rows, sums);
}

void multiply_dot(const void* x, size_t stride, const void* panel, size_t k, size_t rows,
                  float* sums) {
  int8_dot()(x, stride, panel, groups_of(k), rows, sums);
}

// One group of x as integers within ±127 and a scale. An element that is no number makes the scale
// so, and with it all that the row is multiplied with.
struct Quantized {
  int8_t whole[kInt8Group];
  float scale = 0;
  int32_t sum = 0;

  Quantized(const float* x, size_t n) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    float largest = 0, poison = 0;
    for (size_t i = 0; i < n; ++i) {
      largest = std::max(largest, std::abs(x[i]));
      poison += x[i] * 0.0f;
    }
    scale = largest / 127.0f + poison;
    const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
    for (size_t i = 0; i < n; ++i) {
      const float v = poison == 0 ? x[i] * inverse : 0.0f;
      whole[i] = static_cast<int8_t>(static_cast<int32_t>((v + kRound) - kRound));
      sum += whole[i];
    }
    std::fill(whole + n, whole + kInt8Group, int8_t{0});
  }
};

template <bool kDot>
void prepare_int8(const float* x, size_t k, std::byte* to) {
  constexpr auto kGroup = static_cast<size_t>(kInt8Group);
  const Int8Row row(groups_of(k), kDot ? 1 : 2);
  for (size_t g = 0; g < row.groups; ++g) {
    const Quantized q(x + g * kGroup, std::min(kGroup, k - g * kGroup));
    if constexpr (kDot) {
      std::memcpy(to + g * kGroup, q.whole, kGroup);
    } else {
      auto* pairs = reinterpret_cast<int16_t*>(to) + g * kGroup;
      for (size_t i = 0; i < kGroup; i += 4) {
        pairs[i] = q.whole[i], pairs[i + 1] = q.whole[i + 2];
        pairs[i + 2] = q.whole[i + 1], pairs[i + 3] = q.whole[i + 3];
      }
    }
    const int32_t correction = -128 * q.sum;
    std::memcpy(to + row.scales + g * 4, &q.scale, 4);
    std::memcpy(to + row.corrections + g * 4, &correction, 4);
  }
}

}  // namespace

PanelKernel int8_kernel(size_t k, bool dot) {
  if (dot && int8_dot() != nullptr) {
    return {prepare_int8<true>, multiply_dot, Int8Row(groups_of(k), 1).bytes};
  }
  return {prepare_int8<false>, multiply_int8, Int8Row(groups_of(k), 2).bytes};
}

}  // namespace limpet::ops
#endif
