// The KV pool as RopeAppend and PagedAttention see it on the CPU:
// [pages, layers, 2 (k, v), kv_heads, page_tokens, head_dim].
#pragma once
#include <cstdint>

#include "ops/kernel.h"
#include "ops/tensor.h"

namespace limpet::ops {

struct Pool {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  int64_t pages = 0, layers = 0, kv_heads = 0, page_tokens = 0, head_dim = 0;

  explicit Pool(const TensorView& t)
      : data(t.as<std::byte>()),
        dtype(t.dtype),
        pages(t.shape[0]),
        layers(t.shape[1]),
        kv_heads(t.shape[3]),
        page_tokens(t.shape[4]),
        head_dim(t.shape[5]) {}

  // The first token's row of one head's keys (which = 0) or values (1) in a page; the page's
  // tokens follow it.
  std::byte* rows(int64_t page, int64_t layer, int64_t which, int64_t kv_head) const {
    const int64_t index = ((page * layers + layer) * 2 + which) * kv_heads + kv_head;
    return data + index * page_tokens * head_dim * size_of(dtype);
  }
};

// Whether t can be a pool: 16 … 256 even elements a head, pages that fill attention's blocks.
inline bool is_pool(const TensorView& t) {
  if ((t.dtype != DType::f32 && t.dtype != DType::bf16) || t.layout != Layout::dense ||
      t.shape.rank != 6 || t.shape[2] != 2) {
    return false;
  }
  const int64_t tokens = t.shape[4], dim = t.shape[5];
  return tokens >= 4 && 64 % tokens == 0 && dim >= 2 && dim <= 256 && dim % 2 == 0;
}

// Where a row's sequence has its pages.
struct PageTable {
  const int32_t* row_sequence = nullptr;
  const int32_t* pages = nullptr;
  int64_t sequences = 0, max_pages = 0;

  PageTable(const TensorView& sequence_of_row, const TensorView& table)
      : row_sequence(sequence_of_row.as<int32_t>()),
        pages(table.as<int32_t>()),
        sequences(table.shape[0]),
        max_pages(table.shape[1]) {}
  const int32_t* of_row(int64_t row) const { return pages + row_sequence[row] * max_pages; }
  bool has(int64_t row, int64_t index) const {
    return row_sequence[row] >= 0 && row_sequence[row] < sequences && index >= 0 &&
           index < max_pages;
  }
};

}  // namespace limpet::ops
