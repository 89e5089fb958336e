#include "ops/rope_table/rope_table.h"

#include "ops/operands.h"

namespace limpet::ops {

void check(const RopeTable& op, const Args& a) {
  constexpr const char* kOp = "RopeTable";
  require(has_counts(a, 2, 1), kOp, "takes positions and frequencies, gives the table");
  require(is_i32(a.in[0], 1) && is_f32(a.in[1], 1), kOp,
          "positions must be i32 [rows], frequencies f32 [n]");
  require(is_f32(a.out[0], 2) && a.out[0].shape == Shape{a.in[0].cols(), 2 * a.in[1].cols()}, kOp,
          "the table must be f32 [rows, 2 n]");
  require(op.growth.factor == 0 ||
              (op.growth.factor >= 1 && op.growth.trained > 0 && op.growth.theta > 0),
          kOp, "dynamic scaling takes a factor of at least 1, a trained length and theta");
}

}  // namespace limpet::ops
