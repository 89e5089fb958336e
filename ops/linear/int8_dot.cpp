// Compiled for AVX512-VNNI; nothing here runs before int8_dot() has asked the processor. It
// includes no templates of others, which the linker might take from here for everybody.
#include "ops/linear/int8_dot.h"

#include <immintrin.h>

namespace limpet::ops {
namespace {

constexpr size_t kGroup = 64;                // elements of x that share a scale
constexpr size_t kGroupBytes = kGroup * 32;  // of a panel

template <class T>
T value(const char* from) {
  T v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

// Masked with ones: g++ 12 warns of its own undefined vector in the plain conversion.
__m512 to_float(__m512i v) { return _mm512_maskz_cvtepi32_ps(0xffff, v); }

// One group of `kRows` rows: its exact sums, times the group's scale, are added to `sums`.
template <int kRows>
void multiply_group(const char* x, size_t stride, const char* panel, size_t groups, size_t group,
                    float* sums) {
  const size_t scales = groups * kGroup + group * 4, corrections = scales + groups * 4;
  __m512i low[kRows], high[kRows];
  for (int r = 0; r < kRows; ++r) {
    low[r] = high[r] = _mm512_set1_epi32(value<int>(x + static_cast<size_t>(r) * stride +
                                                    corrections));
  }
  const char* quads = x + group * kGroup;
  for (size_t q = 0; q < kGroup / 4; ++q) {
    _mm_prefetch(panel + q * 128 + 4096, _MM_HINT_T0);
    _mm_prefetch(panel + q * 128 + 4096 + 64, _MM_HINT_T0);
    const __m512i a = _mm512_load_si512(panel + q * 128);
    const __m512i b = _mm512_load_si512(panel + q * 128 + 64);
    for (int r = 0; r < kRows; ++r) {
      const __m512i v =
          _mm512_set1_epi32(value<int>(quads + static_cast<size_t>(r) * stride + q * 4));
      low[r] = _mm512_dpbusd_epi32(low[r], a, v);
      high[r] = _mm512_dpbusd_epi32(high[r], b, v);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const __m512 scale =
        _mm512_set1_ps(value<float>(x + static_cast<size_t>(r) * stride + scales));
    float* to = sums + r * 32;
    _mm512_storeu_ps(to, _mm512_fmadd_ps(scale, to_float(low[r]), _mm512_loadu_ps(to)));
    _mm512_storeu_ps(to + 16,
                     _mm512_fmadd_ps(scale, to_float(high[r]), _mm512_loadu_ps(to + 16)));
  }
}

using Group = void (*)(const char* x, size_t stride, const char* panel, size_t groups,
                       size_t group, float* sums);
constexpr Group kGroups[] = {multiply_group<1>, multiply_group<2>, multiply_group<3>,
                             multiply_group<4>};

void multiply(const void* x, size_t stride, const void* panel, size_t groups, size_t rows,
              float* sums) {
  const auto* from = static_cast<const char*>(x);
  const auto* weights = static_cast<const char*>(panel);
  __builtin_memset(sums, 0, rows * 32 * sizeof(float));
  for (size_t g = 0; g < groups; ++g) {
    for (size_t r = 0; r < rows; r += 4) {
      const size_t some = rows - r < 4 ? rows - r : 4;
      kGroups[some - 1](from + r * stride, stride, weights + g * kGroupBytes, groups, g,
                        sums + r * 32);
    }
  }
  const char* scales = weights + groups * kGroupBytes;
  const __m512 low = _mm512_loadu_ps(scales), high = _mm512_loadu_ps(scales + 64);
  for (size_t r = 0; r < rows; ++r) {
    float* to = sums + r * 32;
    _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_loadu_ps(to), low));
    _mm512_storeu_ps(to + 16, _mm512_mul_ps(_mm512_loadu_ps(to + 16), high));
  }
}

}  // namespace

Int8Multiply int8_dot() {
  static const bool has = __builtin_cpu_supports("avx512vnni") != 0 &&
                          __builtin_cpu_supports("avx512bw") != 0 &&
                          __builtin_cpu_supports("avx512vl") != 0;
  return has ? multiply : nullptr;
}

}  // namespace limpet::ops
