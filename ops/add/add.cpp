#include "ops/add/add.h"

#include "ops/operands.h"

namespace limpet::ops {

void check(const Add&, const Args& a) {
  constexpr const char* kOp = "Add";
  require(has_counts(a, 2, 1), kOp, "takes a and b, gives y");
  require(is_f32(a.in[0], 2) && is_f32(a.in[1], 2) && is_f32(a.out[0], 2) &&
              a.in[0].shape == a.in[1].shape && a.in[0].shape == a.out[0].shape,
          kOp, "a, b and y must be f32 of the same shape [rows, n]");
}

}  // namespace limpet::ops
