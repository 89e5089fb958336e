#include "ops/sample/sample.h"

#include "ops/operands.h"

namespace limpet::ops {

void check(const Sample&, const Args& a) {
  constexpr const char* kOp = "Sample";
  require(has_counts(a, 3, 1), kOp, "takes logits, draws and context, gives drawn");
  require(is_f32(a.in[0], 2) && a.in[0].cols() > 0, kOp, "logits must be f32 [rows, vocab]");
  const int64_t rows = a.in[0].rows(), words = (a.in[0].cols() + 31) / 32;
  require(is_i32(a.in[1], 2) && a.in[1].shape == Shape{rows, kDrawWords}, kOp,
          "draws must be i32 [rows, kDrawWords]");
  require(is_i32(a.in[2], 2) && a.in[2].cols() == words, kOp,
          "context must be i32 [slots, ceil(vocab / 32)]");
  require(is_i32(a.out[0], 2) && a.out[0].shape == Shape{rows, kDrawnWords}, kOp,
          "drawn must be i32 [rows, kDrawnWords]");
}

}  // namespace limpet::ops
