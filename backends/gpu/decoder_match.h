// The decoder in a Program: what the engine makes of a model of the Llama family, recognised step
// by step, so that its layers can run on the kernels that take several ops at once.
//
// Pure: plain data in and out.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "backends/program.h"

namespace limpet {

// Values of one layer; -1: there is none.
struct MatchedLayer {
  ValueId norm = -1, qkv = -1, qkv_bias = -1, q_norm = -1, k_norm = -1, out = -1;
  ValueId mlp_norm = -1, gate_up = -1, down = -1;
  float eps = 0, head_eps = 0, mlp_eps = 0, scale = 1;
  int64_t layer = 0, window = 0;
};

struct MatchedDecoder {
  std::vector<MatchedLayer> layers{};
  ValueId token_ids = -1, table = -1, rope = -1, positions = -1, row_sequence = -1;
  ValueId page_table = -1, pool = -1;
  ValueId result = -1;  // the residual stream after the last layer
  int32_t count = -1;   // element of the program's counts, of all the layers' steps
  size_t rope_step = 0, end = 0;  // steps [0, end) are the layers and the rope table's
  int64_t rows = 0, hidden = 0, inner = 0, heads = 0, kv_heads = 0, head_dim = 0, rotary = 0;
};

// Nothing when the program does not begin with a decoder's layers, of bf16 weights and KV.
std::optional<MatchedDecoder> match_decoder(const Program& program);

}  // namespace limpet
