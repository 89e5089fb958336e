#include "ops/linear/linear.h"

#include "ops/operands.h"

namespace limpet::ops {

void check(const Linear& op, const Args& a) {
  constexpr const char* kOp = "Linear";
  require(has_counts(a, 2 + size_t{op.bias} + size_t{op.residual}, 1), kOp,
          "takes x, weight and what bias and residual say, gives y");
  require(
      is_f32(a.in[0], 2) && is_weight(a.in[1], Layout::linear) && a.in[0].cols() == a.in[1].cols(),
      kOp, "x must be f32 [rows, k], the weight f32, bf16 or i8 [n, k] packed for Linear");
  require(!op.exact || a.in[1].dtype == DType::bf16, kOp, "exact is for bf16 weights");
  const Shape y{a.in[0].rows(), a.in[1].shape[0]};
  require(is_f32(a.out[0], 2) && a.out[0].shape == y, kOp, "y must be f32 [rows, n]");
  require(!op.bias || (is_f32(a.in[2], 1) && a.in[2].cols() == y.cols()), kOp,
          "the bias must be f32 [n]");
  require(!op.residual || (is_f32(a.in.back(), 2) && a.in.back().shape == y), kOp,
          "the residual must be f32 [rows, n]");
}

}  // namespace limpet::ops
