// How weights of Linear and GatedLinear lie in a GPU's memory: rows of `weight_stride(k)` elements,
// k and zeros up to a multiple of 8, so that every row begins at a multiple of 16 bytes. In
// GatedLinear's layout row 2 i is gate's row i and row 2 i + 1 is up's.
#pragma once
#include <cstdint>

namespace limpet::ops {

constexpr int64_t weight_stride(int64_t k) { return (k + 7) / 8 * 8; }

}  // namespace limpet::ops
