// y = a + b.
//
//   in:  a f32 [rows, n], b f32 [rows, n]
//   out: y f32 [rows, n]; may be a or b
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct Add {
  bool operator==(const Add&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const Add& op, const Args& args);
void run(const Add& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
