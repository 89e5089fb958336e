// The rows whose results are wanted: y[i] = x[rows[i]].
//
//   in:  x f32 [m, n], rows i32 [wanted]
//   out: y f32 [wanted, n]
// The count, if any, is of `wanted`. A row outside x is a bug (CPU: std::logic_error).
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct GatherRows {
  bool operator==(const GatherRows&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const GatherRows& op, const Args& args);
void run(const GatherRows& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
