#include "ops/gated_linear/gated_linear.h"

#include "ops/operands.h"

namespace limpet::ops {

void check(const GatedLinear&, const Args& a) {
  constexpr const char* kOp = "GatedLinear";
  require(has_counts(a, 2, 1), kOp, "takes x and the weight, gives y");
  require(is_f32(a.in[0], 2) && is_weight(a.in[1], Layout::gated) &&
              a.in[0].cols() == a.in[1].cols() && a.in[1].shape[0] % 2 == 0,
          kOp, "x must be f32 [rows, k], the weight f32, bf16 or i8 [2 n, k] packed for it");
  require(is_f32(a.out[0], 2) && a.out[0].shape == Shape{a.in[0].rows(), a.in[1].shape[0] / 2}, kOp,
          "y must be f32 [rows, n]");
}

}  // namespace limpet::ops
