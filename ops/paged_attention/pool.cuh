// The KV pool and the page tables as GPU kernels see them; plain numbers, passed by value.
#pragma once
#include "ops/gpu.h"
#include "ops/paged_attention/pool.h"

namespace limpet::ops {
namespace {

struct GpuPool {
  void* data;
  int64_t pages, layers, kv_heads, page_tokens, head_dim, layer;
  const int32_t* row_sequence;
  const int32_t* table;
  int64_t sequences, max_pages;

  // Element 0 of the key (which = 0) or value (1) of a head at a position of the row's sequence;
  // null when the tables hold no such position.
  template <class Element>
  __device__ Element* at(int64_t row, int64_t position, int64_t which, int64_t kv_head) const {
    const int64_t sequence = row_sequence[row], index = position / page_tokens;
    if (sequence < 0 || sequence >= sequences || position < 0 || index >= max_pages) return nullptr;
    const int64_t page = table[sequence * max_pages + index];
    if (page < 0 || page >= pages) return nullptr;
    const int64_t slice = ((page * layers + layer) * 2 + which) * kv_heads + kv_head;
    return static_cast<Element*>(data) +
           (slice * page_tokens + position % page_tokens) * head_dim;
  }
};

inline GpuPool gpu_pool(const TensorView& pool, const TensorView& row_sequence,
                        const TensorView& page_table, int64_t layer) {
  return {pool.data,
          pool.shape[0],
          pool.shape[1],
          pool.shape[3],
          pool.shape[4],
          pool.shape[5],
          layer,
          row_sequence.as<int32_t>(),
          page_table.as<int32_t>(),
          page_table.shape[0],
          page_table.shape[1]};
}

}  // namespace
}  // namespace limpet::ops
