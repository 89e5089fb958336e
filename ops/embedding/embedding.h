// Rows of a table: x[t] = table[token_ids[t]].
//
//   in:  token_ids i32 [rows], table f32|bf16 [vocab, hidden], dense or in Linear's layout
//   out: x f32 [rows, hidden]
// A token id outside the vocabulary is a bug of the caller (CPU: std::logic_error).
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct Embedding {
  bool operator==(const Embedding&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const Embedding& op, const Args& args);
void run(const Embedding& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
