// What one thread works on in PagedAttention: up to 64 queries that read one KV head of one
// sequence, block of keys by block of keys. Each query's result depends on it alone.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "ops/paged_attention/pool.h"

namespace limpet::ops {

constexpr int64_t kBlock = 64;  // keys, counted from position 0
constexpr size_t kTileQueries = 64;
constexpr int64_t kPagesAhead = 2;  // that memory is asked for before they are needed

struct Tile {
  const Pool& pool;
  const int64_t layer, kv_head;
  const int32_t* const pages;  // of the sequence
  const float scale;
  const size_t head_dim;

  size_t queries = 0;
  int64_t last_key = 0;  // that any of the queries sees
  std::array<const float*, kTileQueries> q;
  std::array<float*, kTileQueries> result;
  std::array<int64_t, kTileQueries> first, last;  // keys that the query sees

  // Scratch, aligned for vectors.
  float* keys;     // [head_dim][kBlock]: transposed, so that a score is a chain of one lane
  float* values;   // [kBlock][padded_dim], zeros where nothing is staged
  float* scores;   // [kTileQueries][kBlock]
  float* out;      // [kTileQueries][padded_dim]
  float* sums;     // [kTileQueries][16]: of the softmax, by lane
  float* maximum;  // [kTileQueries]

  static size_t padded(int64_t dim) { return (static_cast<size_t>(dim) + 15) / 16 * 16; }
  size_t padded_dim() const { return padded(static_cast<int64_t>(head_dim)); }
  static size_t scratch_bytes(int64_t head_dim) {
    const size_t dim = padded(head_dim);
    return sizeof(float) * (2 * kBlock * dim + kTileQueries * (kBlock + dim + 16 + 1));
  }

  Tile(const Pool& of, int64_t l, int64_t h, const int32_t* table, float s, std::byte* scratch)
      : pool(of),
        layer(l),
        kv_head(h),
        pages(table),
        scale(s),
        head_dim(static_cast<size_t>(of.head_dim)) {
    keys = reinterpret_cast<float*>(scratch);
    values = keys + kBlock * padded_dim();
    scores = values + kBlock * padded_dim();
    out = scores + kTileQueries * kBlock;
    sums = out + kTileQueries * padded_dim();
    maximum = sums + kTileQueries * 16;
  }
  void add(const float* from, float* to, int64_t first_key, int64_t to_key) {
    q[queries] = from;
    result[queries] = to;
    first[queries] = first_key;
    last[queries++] = to_key;
    last_key = std::max(last_key, to_key);
  }
};

}  // namespace limpet::ops
