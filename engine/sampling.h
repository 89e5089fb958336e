// One token from one row of logits. Pure: the draw is a function of (seed, position), so it does
// not depend on the batch, the worker or the attempt.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/token.h"

namespace limpet::engine {

// In the order in which they apply: penalty, temperature, top_k, top_p, min_p.
struct SamplingOptions {
  float temperature = 0.0f;         // 0: greedy, the highest logit, the lowest id among equals
  float top_p = 1.0f;               // keep the most likely tokens up to this mass; 1: off
  int32_t top_k = 0;                // keep this many; 0: off
  float min_p = 0.0f;               // keep tokens of at least min_p × the highest probability
  float repetition_penalty = 1.0f;  // Keskar et al. 2019 (CTRL), on tokens of the context; 1: off
  uint64_t seed = 0;
  int32_t logprobs = -1;  // alternatives to tell; 0: the chosen token's; -1: none

  static constexpr int32_t kMaxLogprobs = 20;
};

struct TokenProbability {
  Token token = 0;
  float logprob = 0.0f;  // natural logarithm
  bool operator==(const TokenProbability&) const = default;
};

struct Sampled {
  Token token = 0;
  float logprob = 0.0f;               // of the model's own distribution (softmax of the logits
  std::vector<TokenProbability> top;  // as given); only when logprobs ≥ 0. `top`: likeliest first
  std::string error;                  // not empty: nothing was sampled
  bool ok() const { return error.empty(); }
};

// Why the options are refused: one line; empty when they are fine.
std::string validate(const SamplingOptions& options);

// logits [vocab]: finite or -inf (never drawn); NaN, +inf or nothing but -inf is an error value.
// `context`: the tokens that the penalty applies to; ids outside the vocabulary are ignored.
// `position`: of the token that is drawn, its index in the session. The options are valid.
Sampled sample(std::span<const float> logits, std::span<const Token> context,
               const SamplingOptions& options, int64_t position);

// The uniform number in [0, 1) of a position: Philox4x32-10 (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3"), key = seed, counter = position; 53 bits.
double uniform_draw(uint64_t seed, int64_t position);

}  // namespace limpet::engine
