// Between the device's pages of KV and rows in host memory.
//
// A page holds `page_tokens` rows of every layer: [layer][k|v][kv_head][row][head_dim], float32 or
// bf16. Host rows are [rows, kv_heads * head_dim] float32, one array for k and one for v of each
// layer; float32 holds bf16 exactly, so a round trip changes no bit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/engine.h"

namespace limpet::engine {

constexpr int64_t kPageTokens = 16;  // rows of KV in a page

struct KvLayout {
  int64_t layers = 0, kv_heads = 0, head_dim = 0, page_tokens = kPageTokens;
  Precision precision = Precision::f32;

  int64_t kv_dim() const { return kv_heads * head_dim; }
  int64_t page_bytes() const {
    return layers * 2 * page_tokens * kv_dim() * (precision == Precision::f32 ? 4 : 2);
  }
  // A slice is k or v of one layer within a page, [kv_head][row][head_dim].
  int64_t slice_bytes() const { return page_bytes() / (2 * layers); }
  int64_t slice_offset(int64_t layer, bool k) const {
    return (2 * layer + (k ? 0 : 1)) * slice_bytes();
  }
  // Rows [row, row + rows) of `kv` to rows 0 … of the page; the rest of the page is left alone.
  void to_page(const HostKv& kv, int64_t row, int64_t rows, std::span<std::byte> page) const;
  // Rows 0 … rows − 1 of the page to rows [row, …) of `kv`, which has room for them.
  void to_rows(std::span<const std::byte> page, int64_t rows, HostKv& kv, int64_t row) const;
  // Rows 0 … rows − 1 of a slice to `to`, [rows, kv_dim].
  void slice_to_rows(std::span<const std::byte> slice, int64_t rows, std::span<float> to) const;

 private:
  // Calls visit(row, first column of the row, first element of the slice) for each run of head_dim
  // elements of a slice.
  template <typename Visit>
  void each_run(int64_t rows, Visit visit) const;
};

}  // namespace limpet::engine
