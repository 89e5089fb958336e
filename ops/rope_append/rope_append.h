// Rotates queries and keys by their position, and writes keys and values into the sequences' pages
// (past_k_<layer>, past_v_<layer>).
//
//   in:  q f32 [rows, heads * head_dim], k and v f32 [rows, kv_heads * head_dim],
//        table f32 [rows, rotary] (RopeTable's), positions i32 [rows], row_sequence i32 [rows],
//        page_table i32 [sequences, max_pages],
//        pool f32|bf16 [pages, layers, 2, kv_heads, page_tokens, head_dim]
//   out: rotated q f32 [rows, heads * head_dim]; may be q itself
// q, k and v may be column slices of one tensor. The halves of a head's first `rotary` elements
// are rotated against each other (x1 cos - x2 sin, x2 cos + x1 sin; the layout of Hugging Face
// checkpoints); elements beyond are left. The row at position p goes to page p / page_tokens of
// its sequence's table. Into a bf16 pool k and v are rounded to nearest even.
// A position or page outside the tables is a bug of the caller (CPU: std::logic_error).
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct RopeAppend {
  int64_t layer = 0;
  bool operator==(const RopeAppend&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const RopeAppend& op, const Args& args);
void run(const RopeAppend& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
