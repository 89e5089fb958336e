// The one place that names the processor's bf16 dot-product instructions (AVX512-BF16).
#pragma once
#include <cstddef>
#include <cstdint>

namespace limpet::ops {

struct Bf16Dot {
  // Rounds x [k] to bf16, to nearest even; `to` has k rounded up to even elements, padded with 0.
  void (*round)(const float* x, size_t k, uint16_t* to);
  // As PanelProduct::multiply; k is even.
  void (*multiply)(const void* x, size_t stride_bytes, const void* panel, size_t k, size_t rows,
                   float* sums);
};

// Null where the processor, or this build, has none.
const Bf16Dot* bf16_dot();

}  // namespace limpet::ops
