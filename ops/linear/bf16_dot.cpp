// Compiled for AVX512-BF16; nothing here runs before bf16_dot() has asked the processor. It
// includes no templates of others, which the linker might take from here for everybody.
#include "ops/linear/bf16_dot.h"

#include <immintrin.h>

namespace limpet::ops {
namespace {

void round_row(const float* x, size_t k, uint16_t* to) {
  size_t i = 0;
  for (; i + 16 <= k; i += 16) {
    const __m256bh v = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), reinterpret_cast<__m256i>(v));
  }
  if (i == k) return;
  const auto some = static_cast<__mmask16>((1u << (k - i)) - 1);
  const auto padded = static_cast<__mmask16>((1u << (k + (k & 1) - i)) - 1);
  const __m256bh v = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(some, x + i));
  _mm256_mask_storeu_epi16(to + i, padded, reinterpret_cast<__m256i>(v));
}

template <int kRows>
void multiply_rows(const char* x, size_t stride, const char* panel, size_t pairs, float* sums) {
  __m512 low[kRows], high[kRows];
  for (int r = 0; r < kRows; ++r) low[r] = high[r] = _mm512_setzero_ps();
  for (size_t p = 0; p < pairs; ++p) {
    _mm_prefetch(panel + p * 128 + 2048, _MM_HINT_T0);
    _mm_prefetch(panel + p * 128 + 2048 + 64, _MM_HINT_T0);
    const auto a = reinterpret_cast<__m512bh>(_mm512_load_si512(panel + p * 128));
    const auto b = reinterpret_cast<__m512bh>(_mm512_load_si512(panel + p * 128 + 64));
    for (int r = 0; r < kRows; ++r) {
      const char* pair = x + static_cast<size_t>(r) * stride + p * 4;
      const auto v =
          reinterpret_cast<__m512bh>(_mm512_set1_epi32(*reinterpret_cast<const int*>(pair)));
      low[r] = _mm512_dpbf16_ps(low[r], v, a);
      high[r] = _mm512_dpbf16_ps(high[r], v, b);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    _mm512_storeu_ps(sums + r * 32, low[r]);
    _mm512_storeu_ps(sums + r * 32 + 16, high[r]);
  }
}

using Rows = void (*)(const char* x, size_t stride, const char* panel, size_t pairs, float* sums);
constexpr Rows kRows[] = {multiply_rows<1>, multiply_rows<2>, multiply_rows<3>, multiply_rows<4>,
                          multiply_rows<5>, multiply_rows<6>, multiply_rows<7>, multiply_rows<8>};

// Up to eight rows share one pass over the panel.
void multiply(const void* x, size_t stride, const void* panel, size_t k, size_t rows, float* sums) {
  const auto* from = static_cast<const char*>(x);
  for (size_t r = 0; r < rows; r += 8) {
    const size_t some = rows - r < 8 ? rows - r : 8;
    kRows[some - 1](from + r * stride, stride, static_cast<const char*>(panel), k / 2,
                    sums + r * 32);
  }
}

constexpr Bf16Dot kKernels = {round_row, multiply};

}  // namespace

const Bf16Dot* bf16_dot() {
  static const bool has = __builtin_cpu_supports("avx512bf16") != 0 &&
                          __builtin_cpu_supports("avx512bw") != 0 &&
                          __builtin_cpu_supports("avx512vl") != 0;
  return has ? &kKernels : nullptr;
}

}  // namespace limpet::ops
