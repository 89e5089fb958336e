#include "ops/linear/panel.h"

#include <cstring>

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

float element(const WeightSource& s, int64_t index) {
  if (s.dtype == DType::f32) {
    // Files align tensors to their element at best.
    float v;
    std::memcpy(&v, static_cast<const std::byte*>(s.data) + index * 4, sizeof v);
    return v;
  }
  uint16_t v;
  std::memcpy(&v, static_cast<const std::byte*>(s.data) + index * 2, sizeof v);
  return s.dtype == DType::bf16 ? f32_from_bf16(v) : f32_from_f16(v);
}

void pack_slot(DType dtype, const RowOf& from, int64_t slot, int64_t k, std::byte* to) {
  const int64_t base = from.row * from.source->cols;
  if (dtype == DType::f32) {
    auto* out = reinterpret_cast<float*>(to);
    for (int64_t i = 0; i < k; ++i) {
      out[i * kPanelOutputs + slot] = element(*from.source, base + i);
    }
    return;
  }
  auto* out = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < k; ++i) {
    out[i / 2 * 2 * kPanelOutputs + slot * 2 + i % 2] =
        bf16_from_f32(element(*from.source, base + i));
  }
}

}  // namespace

int64_t panel_count(Layout layout, int64_t weight_rows) {
  const int64_t slots = layout == Layout::gated ? weight_rows / 2 : weight_rows;
  const int64_t each = layout == Layout::gated ? kPanelHalf : kPanelOutputs;
  return (slots + each - 1) / each;
}

int64_t panel_bytes(DType dtype, int64_t k) {
  return kPanelOutputs * (dtype == DType::f32 ? k * 4 : (k + 1) / 2 * 4);
}

void pack_panel(Layout layout, DType dtype, std::span<const WeightSource> sources, int64_t panel,
                std::byte* to) {
  const int64_t k = sources[0].cols;
  std::memset(to, 0, static_cast<size_t>(panel_bytes(dtype, k)));
  for (int64_t slot = 0; slot < kPanelOutputs; ++slot) {
    const RowOf from = find_row(layout, sources, panel, slot);
    if (from.source != nullptr) pack_slot(dtype, from, slot, k, to);
  }
}

void convert_row(const WeightSource& source, int64_t row, DType dtype, std::byte* to) {
  for (int64_t i = 0; i < source.cols; ++i) {
    const float v = element(source, row * source.cols + i);
    if (dtype == DType::f32) {
      reinterpret_cast<float*>(to)[i] = v;
    } else {
      reinterpret_cast<uint16_t*>(to)[i] = bf16_from_f32(v);
    }
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
  const auto* from = reinterpret_cast<const uint16_t*>(panel);
  for (int64_t i = 0; i < k; ++i) {
    to[i] = f32_from_bf16(from[i / 2 * 2 * kPanelOutputs + slot * 2 + i % 2]);
  }
}

}  // namespace limpet::ops
