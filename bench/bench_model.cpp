#include "bench/bench_model.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace limpet::bench {
namespace {

// Published shapes; the weights are random.
nlohmann::json shapes(const std::string& name) {
  nlohmann::json c = {{"architectures", {"Qwen2ForCausalLM"}}, {"model_type", "qwen2"},
                      {"hidden_act", "silu"},                  {"rms_norm_eps", 1e-6},
                      {"rope_theta", 1e6},                     {"max_position_embeddings", 32768},
                      {"eos_token_id", 0},                     {"torch_dtype", "bfloat16"}};
  auto set = [&](int hidden, int inner, int layers, int heads, int kv_heads, int vocab, bool tied) {
    c["hidden_size"] = hidden;
    c["intermediate_size"] = inner;
    c["num_hidden_layers"] = layers;
    c["num_attention_heads"] = heads;
    c["num_key_value_heads"] = kv_heads;
    c["vocab_size"] = vocab;
    c["tie_word_embeddings"] = tied;
  };
  if (name == "qwen2-0.5b") {
    set(896, 4864, 24, 14, 2, 151936, true);
  } else if (name == "qwen2-tiny") {
    set(256, 640, 5, 4, 2, 1536, true);
  } else {
    throw std::runtime_error("unknown shapes '" + name + "': use qwen2-0.5b or qwen2-tiny");
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

}  // namespace limpet::bench
