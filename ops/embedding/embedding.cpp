#include "ops/embedding/embedding.h"

#include "ops/operands.h"

namespace limpet::ops {

void check(const Embedding&, const Args& a) {
  constexpr const char* kOp = "Embedding";
  require(has_counts(a, 2, 1), kOp, "takes token_ids and table, gives x");
  require(is_i32(a.in[0], 1), kOp, "token_ids must be i32 [rows]");
  require(is_weight(a.in[1], Layout::dense) || is_weight(a.in[1], Layout::linear), kOp,
          "the table must be [vocab, hidden]: f32 or bf16, or i8 in Linear's layout");
  require(is_f32(a.out[0], 2) && a.out[0].shape == Shape{a.in[0].cols(), a.in[1].cols()}, kOp,
          "x must be f32 [rows, hidden]");
}

}  // namespace limpet::ops
