#include "ops/rope_append/rope_append.h"

#include "ops/operands.h"
#include "ops/paged_attention/pool.h"

namespace limpet::ops {

void check(const RopeAppend& op, const Args& a) {
  constexpr const char* kOp = "RopeAppend";
  require(has_counts(a, 8, 1), kOp,
          "takes q, k, v, table, positions, row_sequence, page_table and pool, gives rotated q");
  require(is_pool(a.in[7]), kOp,
          "the pool must be f32 or bf16 [pages, layers, 2, kv_heads, page_tokens, head_dim]");
  const Shape& pool = a.in[7].shape;
  require(op.layer >= 0 && op.layer < pool[1], kOp, "layer outside the pool");
  const int64_t rows = a.in[0].rows(), head_dim = pool[5], kv_width = pool[3] * head_dim;
  require(is_f32(a.in[0], 2) && a.in[0].cols() % head_dim == 0 && is_f32(a.out[0], 2) &&
              a.out[0].shape == a.in[0].shape,
          kOp, "q must be f32 [rows, heads * head_dim], in and out");
  require(is_f32(a.in[1], 2) && is_f32(a.in[2], 2) && a.in[1].shape == Shape{rows, kv_width} &&
              a.in[2].shape == Shape{rows, kv_width},
          kOp, "k and v must be f32 [rows, kv_heads * head_dim]");
  require(is_f32(a.in[3], 2) && a.in[3].rows() == rows && a.in[3].cols() % 2 == 0 &&
              a.in[3].cols() <= head_dim,
          kOp, "the table must be f32 [rows, rotary], rotary even and at most head_dim");
  require(is_i32(a.in[4], 1) && is_i32(a.in[5], 1) && a.in[4].cols() == rows &&
              a.in[5].cols() == rows && is_i32(a.in[6], 2),
          kOp, "positions, row_sequence must be i32 [rows], page_table i32 [sequences, max_pages]");
}

}  // namespace limpet::ops
