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
  for (int64_t head = 0; head < kv_heads; ++head) {
    for (int64_t row = 0; row < rows; ++row) {
      visit(row, head * head_dim, (head * page_tokens + row) * head_dim);
    }
  }
}

void KvLayout::to_page(const HostKv& kv, int64_t first, int64_t rows,
                       std::span<std::byte> page) const {
  const int64_t width = precision == Precision::f32 ? 4 : 2;
  if (std::ssize(page) != page_bytes() || rows > page_tokens || first + rows > kv.rows) {
    throw std::logic_error("kv layout: rows outside of a page or of the host KV");
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    const HostKv::Layer& from = kv.layers[static_cast<size_t>(layer)];
    for (const bool k : {true, false}) {
      std::byte* slice = page.data() + slice_offset(layer, k);
      const float* rows_of = (k ? from.k : from.v).data() + first * kv_dim();
      each_run(rows, [&](int64_t row, int64_t column, int64_t element) {
        const float* x = rows_of + row * kv_dim() + column;
        for (int64_t i = 0; i < head_dim; ++i) {
          store(x[i], slice + (element + i) * width, precision);
        }
      });
    }
  }
}

void KvLayout::slice_to_rows(std::span<const std::byte> slice, int64_t rows,
                             std::span<float> to) const {
  const int64_t width = precision == Precision::f32 ? 4 : 2;
  if (std::ssize(slice) != slice_bytes() || rows > page_tokens ||
      std::ssize(to) != rows * kv_dim()) {
    throw std::logic_error("kv layout: rows that do not fit a slice of a page");
  }
  each_run(rows, [&](int64_t row, int64_t column, int64_t element) {
    float* x = to.data() + row * kv_dim() + column;
    for (int64_t i = 0; i < head_dim; ++i) {
      x[i] = load(slice.data() + (element + i) * width, precision);
    }
  });
}

void KvLayout::to_rows(std::span<const std::byte> page, int64_t rows, HostKv& kv,
                       int64_t first) const {
  if (std::ssize(page) != page_bytes() || first + rows > kv.rows) {
    throw std::logic_error("kv layout: rows outside of a page or of the host KV");
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    HostKv::Layer& to = kv.layers[static_cast<size_t>(layer)];
    for (const bool k : {true, false}) {
      const auto slice = page.subspan(static_cast<size_t>(slice_offset(layer, k)),
                                      static_cast<size_t>(slice_bytes()));
      slice_to_rows(slice, rows, std::span(k ? to.k : to.v)
                                     .subspan(static_cast<size_t>(first * kv_dim()),
                                              static_cast<size_t>(rows * kv_dim())));
    }
  }
}

}  // namespace limpet::engine
