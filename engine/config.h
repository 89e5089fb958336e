// What a model is, read from its config.json and generation_config.json. Plain data.
//
// Both styles of rotary settings are read: `rope_theta` + `rope_scaling`, and `rope_parameters`;
// a file that has both must say the same in both. What a file leaves out has the value that
// Hugging Face's configuration of that architecture has.
// Anything that would change results and is not supported (an architecture, an activation, a kind
// of rotary scaling, quantized weights) is refused by name: std::runtime_error, before any weight
// is read.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/rope.h"
#include "engine/token.h"

namespace limpet::engine {

struct ModelConfig {
  std::string architecture;  // "Qwen2ForCausalLM"
  int64_t vocab = 0, hidden = 0, intermediate = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t max_context = 0;  // with what rotary scaling adds to max_position_embeddings
  double norm_eps = 1e-6;
  RopeConfig rope;
  bool tied_embeddings = false;
  bool attention_bias = false;  // as the file says; what it covers is the architecture's matter
  bool mlp_bias = false;
  std::vector<int64_t> window;  // of each layer: keys a query sees, itself included; 0 = all
  int64_t prediction_layers = 0;
  std::vector<Token> eos;
  uint64_t text_hash = 0;  // of config.json as it is written
};

// `text` is the content of config.json; `path` names it in errors.
ModelConfig parse_config(std::string_view text, const std::string& path);
// Reads <dir>/config.json, and <dir>/generation_config.json for the end tokens when it is there.
ModelConfig load_config(const std::string& dir);

}  // namespace limpet::engine
