#include "bench/bench_model.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace limpet::bench {
namespace {

struct Shape {
  const char* name;
  const char* architecture;
  int hidden, inner, layers, heads, kv_heads, head_dim, vocab;
  bool tied;
  double rope_theta;
};

constexpr Shape kShapes[] = {
    {"llama-3.1-8b", "LlamaForCausalLM", 4096, 14336, 32, 32, 8, 128, 128256, false, 5e5},
    {"llama-3.2-1b", "LlamaForCausalLM", 2048, 8192, 16, 32, 8, 64, 128256, true, 5e5},
    {"qwen3-0.6b", "Qwen3ForCausalLM", 1024, 3072, 28, 16, 8, 128, 151936, true, 1e6},
    {"qwen2.5-7b", "Qwen2ForCausalLM", 3584, 18944, 28, 28, 4, 128, 152064, false, 1e6},
    {"qwen2-0.5b", "Qwen2ForCausalLM", 896, 4864, 24, 14, 2, 64, 151936, true, 1e6},
    {"qwen2-tiny", "Qwen2ForCausalLM", 256, 640, 5, 4, 2, 64, 1536, true, 1e6},
};

const Shape& shape_of(const std::string& name) {
  std::string known;
  for (const Shape& s : kShapes) {
    if (name == s.name) return s;
    known += (known.empty() ? "" : ", ") + std::string(s.name);
  }
  throw std::runtime_error("unknown shapes '" + name + "': use one of " + known);
}

nlohmann::json shapes(const std::string& name) {
  const Shape& s = shape_of(name);
  const bool llama = std::string(s.architecture) == "LlamaForCausalLM";
  const char* type = llama ? "llama" : name.starts_with("qwen3") ? "qwen3" : "qwen2";
  nlohmann::json c = {{"architectures", {s.architecture}},
                      {"model_type", type},
                      {"hidden_act", "silu"},
                      {"rms_norm_eps", llama ? 1e-5 : 1e-6},
                      {"rope_theta", s.rope_theta},
                      {"max_position_embeddings", llama ? 131072 : 32768},
                      {"eos_token_id", 0},
                      {"torch_dtype", "bfloat16"},
                      {"hidden_size", s.hidden},
                      {"intermediate_size", s.inner},
                      {"num_hidden_layers", s.layers},
                      {"num_attention_heads", s.heads},
                      {"num_key_value_heads", s.kv_heads},
                      {"head_dim", s.head_dim},
                      {"vocab_size", s.vocab},
                      {"tie_word_embeddings", s.tied}};
  if (llama) {
    c["rope_scaling"] = {{"rope_type", "llama3"},
                         {"factor", name == "llama-3.2-1b" ? 32.0 : 8.0},
                         {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0},
                         {"original_max_position_embeddings", 8192}};
  }
  return c;
}

}  // namespace

std::string model_folder(const std::string& name) {
  const auto config = shapes(name);
  const auto folder = std::filesystem::temp_directory_path() / ("limpet-bench-" + name);
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config.dump(2);
  return folder.string();
}

int64_t parameters(const std::string& name) {
  const Shape& s = shape_of(name);
  const std::string architecture = s.architecture;
  const int64_t hidden = s.hidden, q = int64_t{s.heads} * s.head_dim;
  const int64_t kv = int64_t{s.kv_heads} * s.head_dim, table = int64_t{s.vocab} * hidden;
  const int64_t biases = architecture == "Qwen2ForCausalLM" ? q + 2 * kv : 0;
  const int64_t head_norms = architecture == "Qwen3ForCausalLM" ? 2 * s.head_dim : 0;
  const int64_t layer = hidden * (2 * q + 2 * kv + 3 * int64_t{s.inner}) + 2 * hidden + biases +
                        head_norms;
  return s.layers * layer + hidden + (s.tied ? table : 2 * table);
}

bool heads_share_table(const std::string& name) { return shape_of(name).tied; }

}  // namespace limpet::bench
