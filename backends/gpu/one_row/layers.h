// What the kernel that runs a decoder's layers for one row is given (kernel.cuh). Plain data,
// passed by value: a captured launch keeps its own copy.
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
  int window, index;  // index: of the KV pool's layers
};

// What blocks give each other from phase to phase, each value with its tag, and the counters that
// they meet at (meeting.cuh).
struct Exchange {
  uint32_t* arrived;   // [1]: at the meetings of all blocks
  uint32_t* made;      // [layers * kv_heads]: parts of each layer and KV head
  uint32_t* normed;    // bf16 [hidden]: x * norm, without 1 / rms
  uint64_t* squares;   // [blocks]: each block's part of the sum of squares of x
  uint64_t* qkv;       // [(heads + 2 kv_heads) * head_dim]
  uint64_t* parts;     // of attention.cuh
  uint32_t* attended;  // bf16 [heads * head_dim]
  uint32_t* gated;     // bf16 [inner]
};

constexpr int kMostLayers = 96;

struct Step {
  int layers, hidden, inner, heads, kv_heads, head_dim, rotary, pool_layers, max_pages;
  const uint16_t* table;  // bf16 [vocab, hidden], rows table_stride apart
  int64_t table_stride;
  const float* rope;  // [rotary]: cosines, then sines, of the row's position
  const int32_t *count, *token_ids, *positions, *row_sequence, *page_table;
  uint16_t* pool;  // bf16 [pages, layers, 2, kv_heads, 16, head_dim]
  float* result;   // [hidden]: the residual stream after the last layer
  Exchange exchange;
  int slots, slot_bytes, in_flight;  // of the ring (ring.cuh)
  int sums;                          // floats of a product's sums in a block
  Layer layer[kMostLayers];
};

}  // namespace one_row
}  // namespace limpet
