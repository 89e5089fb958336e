#include "ops/paged_attention/paged_attention.h"

#include "ops/operands.h"
#include "ops/paged_attention/pool.h"

namespace limpet::ops {

void check(const PagedAttention& op, const Args& a) {
  constexpr const char* kOp = "PagedAttention";
  require(has_counts(a, 5, 1), kOp,
          "takes q, positions, row_sequence, page_table and pool, gives o");
  require(is_pool(a.in[4]), kOp,
          "the pool must be f32 or bf16 [pages, layers, 2, kv_heads, page_tokens, head_dim]");
  const Shape& pool = a.in[4].shape;
  require(op.layer >= 0 && op.layer < pool[1], kOp, "layer outside the pool");
  require(op.window >= 0, kOp, "the window must not be negative");
  require(is_f32(a.in[0], 2) && a.in[0].cols() % (pool[3] * pool[5]) == 0, kOp,
          "q must be f32 [rows, heads * head_dim], heads a multiple of kv_heads");
  require(is_f32(a.out[0], 2) && a.out[0].shape == a.in[0].shape, kOp, "o must be shaped like q");
  const int64_t rows = a.in[0].rows();
  require(is_i32(a.in[1], 1) && is_i32(a.in[2], 1) && a.in[1].cols() == rows &&
              a.in[2].cols() == rows && is_i32(a.in[3], 2),
          kOp, "positions, row_sequence must be i32 [rows], page_table i32 [sequences, max_pages]");
}

}  // namespace limpet::ops
