// The one place that names the processor's int8 dot-product instructions (AVX512-VNNI).
#pragma once
#include <cstddef>
#include <cstdint>

namespace limpet::ops {

// As PanelKernel::multiply. A row of x: integers int8 [groups * 64], the groups' scales f32
// [groups], and -128 times the groups' sums, int32 [groups].
using Int8Multiply = void (*)(const void* x, size_t stride, const void* panel, size_t groups,
                              size_t rows, float* sums);

// Null where the processor, or this build, has none.
Int8Multiply int8_dot();

}  // namespace limpet::ops
