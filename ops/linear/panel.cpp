#include "ops/linear/panel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace limpet::ops {
namespace {

// Row `row` of the stacked sources, or null beyond them.
struct RowOf {
  const WeightSource* source = nullptr;
  int64_t row = 0;
};

RowOf find_row(Layout layout, std::span<const WeightSource> sources, int64_t panel, int64_t slot) {
  if (layout == Layout::gated) {
    const WeightSource& source = sources[static_cast<size_t>(slot / kPanelHalf)];
    const int64_t row = panel * kPanelHalf + slot % kPanelHalf;
    return row < source.rows ? RowOf{&source, row} : RowOf{};
  }
  int64_t row = panel * kPanelOutputs + slot;
  for (const WeightSource& source : sources) {
    if (row < source.rows) return {&source, row};
    row -= source.rows;
  }
  return {};
}

// Files align tensors to their element at best.
template <class T>
T at(const WeightSource& s, int64_t index) {
  T v;
  std::memcpy(&v, static_cast<const std::byte*>(s.data) + index * int64_t{sizeof v}, sizeof v);
  return v;
}

void load_row(const WeightSource& s, int64_t row, float* to) {
  const int64_t base = row * s.cols;
  if (s.dtype == DType::f32) {
    std::memcpy(to, static_cast<const std::byte*>(s.data) + base * 4,
                static_cast<size_t>(s.cols) * 4);
  } else if (s.dtype == DType::bf16) {
    for (int64_t i = 0; i < s.cols; ++i) to[i] = f32_from_bf16(at<uint16_t>(s, base + i));
  } else {
    for (int64_t i = 0; i < s.cols; ++i) to[i] = f32_from_f16(at<uint16_t>(s, base + i));
  }
}

int64_t int8_body(int64_t k) { return (k + kInt8Group - 1) / kInt8Group * kInt8Group * 32; }

// To the nearest whole number, even at halves; |v| below 2^22.
float nearest(float v) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  return (v + kRound) - kRound;
}

// `row` as integers within ±127, 128 more than they are; the scale that gives it back. A row that
// holds what is no number gives nothing but such.
void pack_int8(float* row, int64_t k, int64_t slot, std::byte* to) {
  float largest = 0, poison = 0;
  for (int64_t i = 0; i < k; ++i) {
    largest = std::max(largest, std::abs(row[i]));
    poison += row[i] * 0.0f;
  }
  const float scale = largest / 127.0f + poison;
  const float inverse = largest > 1e-30f && poison == 0 ? 127.0f / largest : 0.0f;
  for (int64_t i = 0; i < k; ++i) {
    row[i] = poison == 0 ? nearest(row[i] * inverse) + 128.0f : 128.0f;
  }
  auto* out = reinterpret_cast<uint32_t*>(to);
  for (int64_t q = 0; q < (k + 3) / 4; ++q) {
    uint32_t bytes = 0;
    for (int64_t j = 0; j < 4; ++j) {
      const float v = q * 4 + j < k ? row[q * 4 + j] : 128.0f;
      bytes |= static_cast<uint32_t>(v) << (8 * j);
    }
    out[q * kPanelOutputs + slot] = bytes;
  }
  std::memcpy(to + int8_body(k) + slot * 4, &scale, sizeof scale);
}

void pack_slot(DType dtype, const RowOf& from, int64_t slot, int64_t k, float* row,
               std::byte* to) {
  const WeightSource& source = *from.source;
  if (dtype == DType::bf16 && source.dtype == DType::bf16) {  // pairs as they are
    auto* out = reinterpret_cast<uint32_t*>(to);
    const int64_t base = from.row * source.cols;
    for (int64_t p = 0; p < k / 2; ++p) {
      uint32_t pair;
      std::memcpy(&pair, static_cast<const std::byte*>(source.data) + (base + 2 * p) * 2, 4);
      out[p * kPanelOutputs + slot] = pair;
    }
    if (k % 2 != 0) out[k / 2 * kPanelOutputs + slot] = at<uint16_t>(source, base + k - 1);
    return;
  }
  load_row(source, from.row, row);
  if (dtype == DType::i8) {
    pack_int8(row, k, slot, to);
  } else if (dtype == DType::f32) {
    auto* out = reinterpret_cast<float*>(to);
    for (int64_t i = 0; i < k; ++i) out[i * kPanelOutputs + slot] = row[i];
  } else {
    auto* out = reinterpret_cast<uint16_t*>(to);
    for (int64_t i = 0; i < k; ++i) {
      out[i / 2 * 2 * kPanelOutputs + slot * 2 + i % 2] = bf16_from_f32(row[i]);
    }
  }
}

}  // namespace

int64_t panel_count(Layout layout, int64_t weight_rows) {
  const int64_t slots = layout == Layout::gated ? weight_rows / 2 : weight_rows;
  const int64_t each = layout == Layout::gated ? kPanelHalf : kPanelOutputs;
  return (slots + each - 1) / each;
}

int64_t panel_bytes(DType dtype, int64_t k) {
  if (dtype == DType::i8) return int8_body(k) + kPanelOutputs * 4;
  return kPanelOutputs * (dtype == DType::f32 ? k * 4 : (k + 1) / 2 * 4);
}

void pack_panel(Layout layout, DType dtype, std::span<const WeightSource> sources, int64_t panel,
                std::byte* to) {
  const int64_t k = sources[0].cols;
  std::memset(to, 0, static_cast<size_t>(panel_bytes(dtype, k)));
  if (dtype == DType::i8) std::memset(to, 128, static_cast<size_t>(int8_body(k)));
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t slot = 0; slot < kPanelOutputs; ++slot) {
    const RowOf from = find_row(layout, sources, panel, slot);
    if (from.source != nullptr) pack_slot(dtype, from, slot, k, row.data(), to);
  }
}

void convert_row(const WeightSource& source, int64_t row, DType dtype, std::byte* to) {
  if (dtype == DType::f32) {
    load_row(source, row, reinterpret_cast<float*>(to));
    return;
  }
  std::vector<float> values(static_cast<size_t>(source.cols));
  load_row(source, row, values.data());
  auto* out = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < source.cols; ++i) {
    out[i] = bf16_from_f32(values[static_cast<size_t>(i)]);
  }
}

void unpack_row(const TensorView& weight, int64_t row, float* to) {
  const int64_t k = weight.cols(), slot = row % kPanelOutputs;
  const std::byte* panel =
      weight.as<std::byte>() + row / kPanelOutputs * panel_bytes(weight.dtype, k);
  if (weight.dtype == DType::f32) {
    const auto* from = reinterpret_cast<const float*>(panel);
    for (int64_t i = 0; i < k; ++i) to[i] = from[i * kPanelOutputs + slot];
    return;
  }
  if (weight.dtype == DType::i8) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(panel);
    float scale;
    std::memcpy(&scale, panel + int8_body(k) + slot * 4, sizeof scale);
    for (int64_t i = 0; i < k; ++i) {
      const int q = bytes[i / 4 * 4 * kPanelOutputs + slot * 4 + i % 4] - 128;
      to[i] = scale * static_cast<float>(q);
    }
    return;
  }
  const auto* from = reinterpret_cast<const uint16_t*>(panel);
  for (int64_t i = 0; i < k; ++i) {
    to[i] = f32_from_bf16(from[i / 2 * 2 * kPanelOutputs + slot * 2 + i % 2]);
  }
}

}  // namespace limpet::ops
