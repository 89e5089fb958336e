#include "ops/advance/advance.h"

#include "ops/operands.h"
#include "ops/sample/sample.h"

namespace limpet::ops {

void check(const Advance&, const Args& a) {
  constexpr const char* kOp = "Advance";
  require(has_counts(a, 2, 3), kOp, "takes drawn and from, gives token_ids, positions and draws");
  require(is_i32(a.in[1], 1) && a.in[1].cols() <= kMostAdvanced, kOp,
          "from must be i32 [rows], at most kMostAdvanced rows");
  const int64_t rows = a.in[1].cols();
  require(is_i32(a.in[0], 2) && a.in[0].shape == Shape{rows, kDrawnWords}, kOp,
          "drawn must be i32 [rows, kDrawnWords]");
  require(is_i32(a.out[0], 1) && is_i32(a.out[1], 1) && a.out[0].cols() == rows &&
              a.out[1].cols() == rows,
          kOp, "token_ids and positions must be i32 [rows]");
  require(is_i32(a.out[2], 2) && a.out[2].shape == Shape{rows, kDrawWords}, kOp,
          "draws must be i32 [rows, kDrawWords]");
}

}  // namespace limpet::ops
