// A small paged KV pool with ragged sequences, for RopeAppend and PagedAttention.
#pragma once
#include <algorithm>
#include <numeric>

#include "tests/ops/run_op.h"

namespace limpet::test {

struct AttentionShape {
  int64_t heads, kv_heads, head_dim;
  int64_t window = 0;
  int64_t page_tokens = 16, layers = 2, layer = 1;
};

struct Chunk {
  int32_t sequence = 0;
  int64_t past = 0, rows = 1;
};

// Rows of some chunks; pages of a sequence are scattered over the pool.
struct Rows {
  std::vector<int32_t> positions, row_sequence;

  explicit Rows(const std::vector<Chunk>& chunks) {
    for (const Chunk& c : chunks) {
      for (int64_t i = 0; i < c.rows; ++i) {
        positions.push_back(static_cast<int32_t>(c.past + i));
        row_sequence.push_back(c.sequence);
      }
    }
  }
  int64_t size() const { return static_cast<int64_t>(positions.size()); }
};

struct PagedKv {
  AttentionShape shape;
  int64_t sequences, max_pages;
  Tensor page_table, pool;

  PagedKv(const AttentionShape& s, DType dtype, int64_t sequences_, int64_t max_tokens,
          uint64_t seed)
      : shape(s),
        sequences(sequences_),
        max_pages((max_tokens + s.page_tokens - 1) / s.page_tokens) {
    Random random(seed);
    std::vector<int32_t> pages(static_cast<size_t>(sequences * max_pages + 3));
    std::iota(pages.begin(), pages.end(), 0);
    for (size_t i = pages.size() - 1; i > 0; --i) {
      std::swap(pages[i], pages[static_cast<size_t>(random.below(static_cast<int64_t>(i) + 1))]);
    }
    const auto count = static_cast<int64_t>(pages.size());
    pages.resize(static_cast<size_t>(sequences * max_pages));
    page_table = i32({sequences, max_pages}, pages);
    const Shape extents{count, s.layers, 2, s.kv_heads, s.page_tokens, s.head_dim};
    pool = {dtype, Layout::dense, extents, random.many(extents.elements(), 2), {}, 0};
    for (float& v : pool.values) v = rounded(dtype, v);
  }

  // Element 0 of a key (which = 0) or value (1).
  size_t at(int32_t sequence, int64_t position, int64_t which, int64_t kv_head) const {
    const int64_t page =
        page_table.ints[static_cast<size_t>(sequence * max_pages + position / shape.page_tokens)];
    const int64_t row =
        (((page * shape.layers + shape.layer) * 2 + which) * shape.kv_heads + kv_head) *
            shape.page_tokens +
        position % shape.page_tokens;
    return static_cast<size_t>(row * shape.head_dim);
  }
};

}  // namespace limpet::test
