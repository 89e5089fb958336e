// The angles of a step's rows, computed once for all layers.
//
//   in:  positions i32 [rows], frequencies f32 [n] (radians per position)
//   out: table f32 [rows, 2 n]: cos(position * frequency) for each frequency, then the sines
// position * frequency is rounded to f32 first, as the reference implementations do.
// With dynamic scaling (NTK) a row that belongs to a sequence of more than `trained` tokens takes
// other frequencies than those given: with L = max(position + 1, least),
//   base = theta * (factor * L / trained - (factor - 1)) ^ (n / (n - 1)), base ^ (-i / n).
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

// Of dynamic scaling; factor 0: there is none.
struct RopeGrowth {
  double theta = 0, factor = 0;
  int64_t trained = 0, least = 0;
  bool operator==(const RopeGrowth&) const = default;
};

struct RopeTable {
  RopeGrowth growth{};
  bool operator==(const RopeTable&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const RopeTable& op, const Args& args);
void run(const RopeTable& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
