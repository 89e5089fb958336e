// The angles of a step's rows, computed once for all layers.
//
//   in:  positions i32 [rows], frequencies f32 [n] (radians per position)
//   out: table f32 [rows, 2 n]: cos(position * frequency) for each frequency, then the sines
// position * frequency is rounded to f32 first, as the reference implementations do.
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct RopeTable {
  bool operator==(const RopeTable&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const RopeTable& op, const Args& args);
void run(const RopeTable& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
