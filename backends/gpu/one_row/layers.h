// What the kernel that runs a decoder's layers for one row is given (kernel.cuh). Plain data, passed
// by value: a captured launch keeps its own copy.
#pragma once
#include <cstdint>

namespace limpet {
namespace one_row {

// Pointers are the device's; weights bf16 [n, k], rows next to each other, n even; norms and biases
// f32. A layer's weights and norms are never written while the kernel runs.
struct Layer {
  const uint16_t *qkv, *out, *gate_up, *down;  // gate_up: rows alternate gate, up
  const float *norm, *mlp_norm;                // [hidden]
  const float *qkv_bias, *q_norm, *k_norm;     // or null; the norms [head_dim]
  float eps, mlp_eps, head_eps, scale;
  int window, index;                           // index: of the KV pool's layers
};

constexpr int kMostLayers = 96;
constexpr int kSquaresApart = 16;  // 64-bit numbers from one norm's sum of squares to the next

struct Step {
  int layers, hidden, inner, heads, kv_heads, head_dim, rotary, pool_layers;
  const float* rope;  // [rotary]: cosines, then sines, of the row's position
  const int32_t *count, *positions, *row_sequence, *page_table;
  int max_pages;
  uint16_t* pool;  // bf16 [pages, layers, 2, kv_heads, 16, head_dim]
  // Memory of the step. In: x the embedded row, scaled bf16(x * the first norm), squares[0] the sum
  // of squares of x (tail.cuh), the other squares, `arrived` and `merged` zero.
  float* x;             // [hidden]
  float* result;        // [hidden]: out: the residual stream after the last layer
  uint16_t* scaled;     // [hidden]
  uint64_t* squares;    // [2 layers * kSquaresApart]
  float* raw;           // [qkv width]
  float* parts;         // part_floats() of attention.cuh
  uint16_t *attended;   // [heads * head_dim]
  uint16_t *gated;      // [inner]
  uint32_t *arrived;    // [1]
  uint32_t *merged;     // [layers * kv_heads]
  int slots, slot_bytes;  // of the ring (kernel.cuh)
  Layer layer[kMostLayers];
};

}  // namespace one_row
}  // namespace limpet
