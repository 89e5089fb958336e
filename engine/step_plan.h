// The inputs of one step, made from its row groups: what a device needs to know of who is in the
// batch. Pure; the engine uploads it.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace limpet::engine {

struct StepLimits {
  int64_t max_rows = 0, max_sequences = 0, max_wanted = 0, max_context = 0, vocab = 0;
};

// T token rows of S sequences, N of them wanted back.
struct StepPlan {
  std::vector<int32_t> token_ids;      // [T]
  std::vector<int32_t> positions;      // [T] in the sequence, from 0
  std::vector<int32_t> row_sequence;   // [T] index of the step's sequences
  std::vector<int32_t> wanted_rows;    // [N] rows to read back, ascending
  std::vector<SequenceId> sequences;   // [S]
  std::vector<int64_t> first;          // of each group: its first row among the wanted
  int64_t longest_past = 0;            // before the step

  int64_t rows() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t wanted() const { return static_cast<int64_t>(wanted_rows.size()); }
};

// [sequences, pages] page numbers, each row padded with page 0, which no kernel reads beyond the
// length.
std::vector<int32_t> page_table(std::span<const SequenceId> sequences, const KvCache& kv,
                                int64_t pages);

// Empty, or why the step cannot run: nothing to do, too many rows, a sequence twice or unknown,
// no reservation, beyond the context, a token outside of the vocab.
std::string plan_step(std::span<const StepRow> groups, const KvCache& kv, const StepLimits& limits,
                      StepPlan& plan);

}  // namespace limpet::engine
