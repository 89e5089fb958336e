// Causal attention of each row over the resident KV of its sequence, its own position included:
// o = softmax(scale · q·kᵀ over positions p - window + 1 … p) · v; window 0: all from 0.
//
//   in:  q f32 [rows, heads * head_dim] (rotated), positions i32 [rows], row_sequence i32 [rows],
//        page_table i32 [sequences, max_pages],
//        pool f32|bf16 [pages, layers, 2, kv_heads, page_tokens, head_dim]
//   out: o f32 [rows, heads * head_dim]
// heads is a multiple of kv_heads: query head h reads KV head h / (heads / kv_heads). The rows of a
// sequence stand together, at ascending positions, and their KV has been written (RopeAppend).
// Softmax is computed online over blocks of 64 positions counted from 0, in order, so a row's bits
// depend on its q and its sequence's KV alone (Milakov and Gimelshein 2018; Dao et al. 2022).
// A position or page outside the tables is a bug of the caller (CPU: std::logic_error).
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct PagedAttention {
  int64_t layer = 0;
  float scale = 1.0f;
  int64_t window = 0;
  bool operator==(const PagedAttention&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const PagedAttention& op, const Args& args);
void run(const PagedAttention& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
