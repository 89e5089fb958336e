#include "engine/kv_layout.h"

#include <bit>
#include <cstring>
#include <stdexcept>

namespace limpet::engine {
namespace {

float load(const std::byte* at, Precision precision) {
  if (precision == Precision::f32) {
    float v;
    std::memcpy(&v, at, 4);
    return v;
  }
  uint16_t half;
  std::memcpy(&half, at, 2);
  return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}

void store(float v, std::byte* at, Precision precision) {
  if (precision == Precision::f32) {
    std::memcpy(at, &v, 4);
    return;
  }
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  // Round to nearest even; a NaN keeps its upper half, with a bit set so that it stays one.
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t rounded = nan ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  const auto half = static_cast<uint16_t>(rounded >> 16);
  std::memcpy(at, &half, 2);
}

}  // namespace

template <typename Visit>
void KvLayout::each_run(int64_t rows, Visit visit) const {
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (int64_t which = 0; which < 2; ++which) {
      for (int64_t head = 0; head < kv_heads; ++head) {
        const int64_t base = ((layer * 2 + which) * kv_heads + head) * page_tokens * head_dim;
        for (int64_t row = 0; row < rows; ++row) {
          visit(static_cast<size_t>(layer), which == 0, row, head * head_dim,
                base + row * head_dim);
        }
      }
    }
  }
}

void KvLayout::to_page(const HostKv& kv, int64_t first, int64_t rows,
                       std::span<std::byte> page) const {
  const int64_t width = precision == Precision::f32 ? 4 : 2;
  if (std::ssize(page) != page_bytes() || rows > page_tokens || first + rows > kv.rows) {
    throw std::logic_error("kv layout: rows outside of a page or of the host KV");
  }
  each_run(rows, [&](size_t layer, bool k, int64_t row, int64_t column, int64_t element) {
    const auto& from = k ? kv.layers[layer].k : kv.layers[layer].v;
    const float* x = from.data() + (first + row) * kv_dim() + column;
    for (int64_t i = 0; i < head_dim; ++i) {
      store(x[i], page.data() + (element + i) * width, precision);
    }
  });
}

void KvLayout::to_rows(std::span<const std::byte> page, int64_t rows, HostKv& kv,
                       int64_t first) const {
  const int64_t width = precision == Precision::f32 ? 4 : 2;
  if (std::ssize(page) != page_bytes() || rows > page_tokens || first + rows > kv.rows) {
    throw std::logic_error("kv layout: rows outside of a page or of the host KV");
  }
  each_run(rows, [&](size_t layer, bool k, int64_t row, int64_t column, int64_t element) {
    auto& to = k ? kv.layers[layer].k : kv.layers[layer].v;
    float* x = to.data() + (first + row) * kv_dim() + column;
    for (int64_t i = 0; i < head_dim; ++i) {
      x[i] = load(page.data() + (element + i) * width, precision);
    }
  });
}

}  // namespace limpet::engine
