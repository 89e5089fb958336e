// One token from each row of logits, by the row's own options: penalty, temperature, top_k, top_p,
// min_p, in this order (engine/sampling.h says what each means). The draw is a function of
// (seed, position): candidates in order of id, the first whose cumulated weight exceeds the uniform
// number times all weight. Weights exp((logit - highest) / temperature) are summed as integers of
// 2^-40, so that no order of summing changes a draw.
//
//   in:  logits f32 [rows, vocab], draws i32 [rows, kDrawWords] (DrawSpec),
//        context i32 [slots, ceil(vocab / 32)]: bits of the tokens that the penalty applies to;
//        the drawn token's is set
//   out: drawn i32 [rows, kDrawnWords] (DrawnToken)
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

constexpr int32_t kMostLogprobs = 20;

struct DrawSpec {
  int32_t draws = 0;     // 0: nothing is wanted of this row; its token is 0
  int32_t top_k = 0;     // 0: off
  int32_t logprobs = -1; // alternatives to tell, at most kMostLogprobs; -1: none
  int32_t context = -1;  // slot of the penalty's tokens; -1: no penalty
  float temperature = 0, top_p = 1, min_p = 0, penalty = 1;
  uint64_t seed = 0;
  int64_t position = 0;
  int64_t unused[2] = {};
};

enum class DrawStatus : int32_t { drawn, not_finite, nothing };

struct DrawnToken {
  int32_t token = 0;
  DrawStatus status = DrawStatus::drawn;
  float logprob = 0;    // of the logits as given; when logprobs are wanted
  int32_t told = 0;     // alternatives, likeliest first
  struct { int32_t token; float logprob; } top[kMostLogprobs] = {};
};

constexpr int64_t kDrawWords = sizeof(DrawSpec) / 4, kDrawnWords = sizeof(DrawnToken) / 4;
static_assert(sizeof(DrawSpec) == 64 && sizeof(DrawnToken) == 176);

struct Sample {
  bool operator==(const Sample&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const Sample& op, const Args& args);
void run(const Sample& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
