// The kernel behind SiluMul and GatedLinear's epilogue: y[i] = silu(a[i]) * b[i], i < n.
// Each element's bits depend on a[i] and b[i] alone.
#pragma once
#include <cstddef>

namespace limpet::ops {

void silu_mul_row(const float* a, const float* b, float* y, size_t n);

}  // namespace limpet::ops
