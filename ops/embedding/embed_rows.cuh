// The first kernel of a fused decode step: rows of the embedding as the residual stream, ready for
// the first norm (tail.cuh), and the step's accumulators cleared.
#pragma once
#include "ops/linear/tail.cuh"

namespace limpet::ops {
namespace {

struct EmbedRows {
  const uint16_t* table;  // bf16 [vocab, width], rows `stride` apart
  int64_t stride;
  const int32_t *ids, *count;  // [rows]
  int rows, width;             // width: even
  float* x;                    // f32 [rows, width]
  uint16_t* scaled;            // bf16 [rows, width]: x * norm
  const float* norm;           // [width]
  uint64_t* squares;           // [rows * kRowSlots]: written, so it need not be cleared
  uint64_t* clear;             // [clear_count]: the step's other sums and bests
  int clear_count;
};

__global__ void embed(const EmbedRows a) {
  start_next();
  await_previous();
  const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  for (int i = row * static_cast<int>(blockDim.x) + thread; i < a.clear_count;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    a.clear[i] = 0;
  }
  if (row >= counted_rows(a.count, a.rows)) return;
  const uint16_t* from = a.table + a.ids[row] * a.stride;
  float* x = a.x + int64_t{row} * a.width;
  uint16_t* scaled = a.scaled + int64_t{row} * a.width;
  float squares = 0;
  for (int i = thread * 2; i < a.width; i += static_cast<int>(blockDim.x) * 2) {
    const uint32_t two = *reinterpret_cast<const uint32_t*>(from + i);
    const float first = low_bf16(two), second = high_bf16(two);
    *reinterpret_cast<float2*>(x + i) = make_float2(first, second);
    *reinterpret_cast<uint32_t*>(scaled + i) =
        pack_bf16(first * a.norm[i], second * a.norm[i + 1]);
    squares += first * first + second * second;
  }
  squares = block_sum(squares);
  if (thread == 0) a.squares[row * kRowSlots] = static_cast<uint64_t>(squares * kSquaresUnit);
}

inline GpuError launch_embed(const EmbedRows& a, const Launch& how) {
  return launch(embed, dim3(static_cast<unsigned>(a.rows)), 256, 1, 0, how, a);
}

}  // namespace
}  // namespace limpet::ops
