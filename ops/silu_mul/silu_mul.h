// y = silu(a) * b, silu(v) = v / (1 + exp(-v)).
//
//   in:  a f32 [rows, n], b f32 [rows, n]
//   out: y f32 [rows, n]; may be a or b
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct SiluMul {
  bool operator==(const SiluMul&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const SiluMul& op, const Args& args);
void run(const SiluMul& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
