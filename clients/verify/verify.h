// `limpet verify`: does a checkpoint, as this engine runs it, give the reference logits?
//
// By default the check may find that it does so only with rotary frequencies rounded to bf16, and
// passes: then the reference was computed with rounded ones. Serving never rounds them; the
// report's `rope_frequencies` ("f32" or "bf16") says with which ones it passed.
//
// The golden file is safetensors: input_ids [N] i32, prefill_logits [N, vocab] f32,
// greedy_ids [M] i32, step_logits [M, vocab] f32; step_logits[i] chose greedy_ids[i], and the
// first of them comes from the last prefill row.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace limpet::client {

struct Golden {
  std::vector<Token> input_ids, greedy_ids;
  std::vector<float> prefill_logits, step_logits;  // [N, vocab], [M, vocab]
  int64_t vocab = 0;
};
// Throws std::runtime_error when the file is no such file.
Golden load_golden(const std::string& path);

// Rotary frequencies of the reference. A model that was cast to bf16 as a whole has them rounded;
// one that was loaded in bf16 has not, and limpet serves with the latter. Automatic: as f32, and
// if that fails as bf16; the report says with which it passed.
enum class ReferenceRope : uint8_t { automatic, f32, bf16 };

struct VerifyOptions {
  ReferenceRope rope = ReferenceRope::automatic;
  int64_t chunk = 0;       // rows of a prefill step; 0: the whole prompt at once
  int64_t batch_with = 0;  // other sequences, of other lengths, in the same steps
};

struct VerifyReport {
  double max_abs_prefill = 0, max_abs_step = 0;  // against the reference logits
  double logit_std = 0;                          // of the reference's prefill logits
  double kld = 0;       // mean Kullback-Leibler divergence from the reference, nats per row
  int64_t matched = 0;  // greedy tokens equal to the reference's, given its own tokens before
  int64_t greedy = 0;
  bool int8_weights = false;  // then the tolerance is wider than that of the precision
  bool bf16_rope = false;  // the reference's rotary frequencies were taken as bf16
  double first_gap = 0;  // reference's top-2 gap at the first token that differs
  bool pass(engine::Precision precision) const;
  std::string json(engine::Precision precision) const;  // one line
};

// Prefills, then decodes step by step from resident KV. The engine must have pages for it all.
// Throws std::runtime_error when a step fails.
VerifyReport verify(engine::Engine& engine, const Golden& golden, const VerifyOptions& options);

// What an engine needs to verify this file.
engine::EngineOptions verify_engine_options(const Golden& golden, const VerifyOptions& options);

// Opens an engine with these options and verifies, as `options.rope` says.
VerifyReport verify_checkpoint(engine::EngineOptions engine_options, const Golden& golden,
                               const VerifyOptions& options);

// The command. Exit status: 0 passed, 1 failed, 2 wrong usage.
int verify_main(int argc, char** argv);

}  // namespace limpet::client
