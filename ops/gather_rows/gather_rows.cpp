#include "ops/gather_rows/gather_rows.h"

#include "ops/operands.h"

namespace limpet::ops {

void check(const GatherRows&, const Args& a) {
  constexpr const char* kOp = "GatherRows";
  require(has_counts(a, 2, 1), kOp, "takes x and rows, gives y");
  require(is_f32(a.in[0], 2) && is_i32(a.in[1], 1), kOp, "x must be f32 [m, n], rows i32 [wanted]");
  require(is_f32(a.out[0], 2) && a.out[0].shape == Shape{a.in[1].cols(), a.in[0].cols()}, kOp,
          "y must be f32 [wanted, n]");
}

}  // namespace limpet::ops
