// Weights of Linear and GatedLinear on the CPU, and products with them.
//
// A weight [n, k] lies in panels of 32 outputs, two halves of 16, one output a vector lane:
//   f32:  [panel][k][half][16]
//   bf16: [panel][pairs of k][half][16][2], k padded with zeros to a whole pair
//   i8:   [panel]([quads of k][half][16][4] of integers + 128, k padded with 128 to whole groups
//         of 64; then the outputs' scales, f32 [32])
// In Linear's layout a panel's halves are 32 outputs in a row; in GatedLinear's they are the gate
// and the up half of the same 16. Outputs that pad the last panel are zero weights.
//
// An output's sum runs over k in one chain, in bf16 the odd element of each pair first: what the
// dot-product instruction does, and what every other kernel imitates with exact products.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "ops/kernel.h"
#include "ops/tensor.h"

namespace limpet::ops {

constexpr int64_t kPanelOutputs = 32;
constexpr int64_t kPanelHalf = 16;
constexpr int64_t kInt8Group = 64;  // elements of x that share a scale beside i8 weights
constexpr int64_t kPanelRows = 32;  // rows of x that share one pass over a panel, at most

// `weight_rows` is n for Layout::linear, 2 n for Layout::gated.
int64_t panel_count(Layout layout, int64_t weight_rows);
int64_t panel_bytes(DType dtype, int64_t k);

// Writes one panel, panel_bytes(dtype, k) at `to`, from the sources that Backend::pack describes.
void pack_panel(Layout layout, DType dtype, std::span<const WeightSource> sources, int64_t panel,
                std::byte* to);
// Row `row` of a source as dtype, dense.
void convert_row(const WeightSource& source, int64_t row, DType dtype, std::byte* to);
// Row `row` of a weight in Linear's layout, as f32 [k].
void unpack_row(const TensorView& weight, int64_t row, float* to);

// How one kind of weight is multiplied: what a row of x becomes first, and the product of `rows`
// such rows, `stride` bytes apart, with one panel: sums [rows][32]. k is as it was padded.
struct PanelKernel {
  void (*prepare)(const float* x, size_t k, std::byte* to) = nullptr;  // null: x as it is
  void (*multiply)(const void* x, size_t stride, const void* panel, size_t k, size_t rows,
                   float* sums) = nullptr;
  size_t row_bytes = 0;  // of a prepared row
};
// panel_int8_cpu.cpp; `dot`: by the processor's int8 dot products, where it has them.
PanelKernel int8_kernel(size_t k, bool dot);

// x · weightᵀ, panel by panel. Prepares x once; then any thread may ask for any panel.
class PanelProduct {
 public:
  // x [rows of it, k]; it and the context's shared scratch must stay until the last multiply().
  // `exact`: x is not rounded beside bf16 weights.
  PanelProduct(CpuContext& cpu, const TensorView& x, int64_t rows, const TensorView& weight,
               bool exact = false);
  // sums[i][j] = x[row + i] · output j of the panel, for `rows` (at most kPanelRows) rows.
  void multiply(int64_t panel, int64_t row, int64_t rows, float* sums) const;

 private:
  void prepare(CpuContext& cpu, const TensorView& x, int64_t rows);

  const std::byte* x_ = nullptr;
  size_t stride_bytes_ = 0;
  const std::byte* panels_ = nullptr;
  size_t panel_bytes_ = 0;
  size_t k_ = 0;
  PanelKernel kernel_{};
};

}  // namespace limpet::ops
