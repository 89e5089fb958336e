#include "ops/rms_norm/rms_norm.h"

#include "ops/operands.h"

namespace limpet::ops {

void check(const RmsNorm& op, const Args& a) {
  constexpr const char* kOp = "RmsNorm";
  require(has_counts(a, 2, 1), kOp, "takes x and weight, gives y");
  require(is_f32(a.in[0], 2) && is_f32(a.out[0], 2) && a.in[0].shape == a.out[0].shape, kOp,
          "x and y must be f32 of the same shape [rows, heads * n]");
  require(op.heads > 0 && is_f32(a.in[1], 1) && a.in[0].cols() == op.heads * a.in[1].cols(), kOp,
          "the weight must be f32 [n], and rows heads * n wide");
}

}  // namespace limpet::ops
