// y = silu(x · gateᵀ) * (x · upᵀ), silu(v) = v / (1 + exp(-v)).
//
//   in:  x f32 [rows, k], gate and up f32|bf16|i8 as one weight [2 n, k] (Layout::gated)
//   out: y f32 [rows, n]
// Precision and order of sums are Linear's; bit for bit the same as two Linears and SiluMul.
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct GatedLinear {
  bool operator==(const GatedLinear&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const GatedLinear& op, const Args& args);
void run(const GatedLinear& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
