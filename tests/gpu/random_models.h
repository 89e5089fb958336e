// Small models with random weights (EngineOptions::random_weights) whose shapes are those of the
// kernels that take several ops at once (backends/gpu/decoder_plan.h), but for the last.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "engine/engine.h"
#include "ops/paged_attention/head_sizes.h"

namespace limpet::test {

struct RandomModel {
  const char* name;
  const char* architecture;
  int hidden, inner, heads, kv_heads, head_dim, vocab, window;
  int layers = 3;
};
inline constexpr RandomModel kRandomModels[] = {
    {"llama", "LlamaForCausalLM", 256, 512, 8, 2, 32, 1000, 0},
    {"qwen2", "Qwen2ForCausalLM", 448, 1216, 7, 1, 64, 777, 0},
    {"qwen3", "Qwen3ForCausalLM", 192, 320, 4, 2, 128, 1024, 0},
    {"mistral", "MistralForCausalLM", 320, 448, 4, 4, 80, 513, 40},
    // Wider than what a slot of the ring takes four, or two, rows of (backends/gpu/one_row). Two
    // layers, since their weights take a while to draw.
    {"wide", "LlamaForCausalLM", 2560, 9024, 8, 2, 128, 600, 0, 2},
    {"narrow", "MistralForCausalLM", 1088, 4672, 16, 8, 64, 600, 700, 2},
    {"quarter", "LlamaForCausalLM", 512, 1024, 8, 2, 64, 600, 0},
    {"seven", "Qwen2ForCausalLM", 896, 1216, 7, 1, 128, 600, 0},
    // The other sizes of heads (ops/paged_attention/head_sizes.h).
    {"heads48", "Qwen3ForCausalLM", 192, 320, 4, 2, 48, 600, 0},
    {"heads96", "MistralForCausalLM", 320, 448, 4, 2, 96, 600, 100},
    {"heads112", "LlamaForCausalLM", 256, 512, 4, 1, 112, 600, 0},
    {"heads160", "Qwen2ForCausalLM", 256, 512, 4, 2, 160, 600, 0},
    {"heads192", "Qwen3ForCausalLM", 192, 320, 2, 1, 192, 600, 0},
    {"heads256", "LlamaForCausalLM", 256, 448, 4, 2, 256, 600, 0},
    {"odd", "LlamaForCausalLM", 320, 512, 4, 2, 144, 600, 0},  // no fast kernel has such heads
};

// A folder with the model's config.json, as long as it lives.
class RandomModelFolder {
 public:
  explicit RandomModelFolder(const RandomModel& m)
      : path_(std::filesystem::temp_directory_path() /
              ("limpet-random-" + std::string(m.name) + "-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
    std::ofstream out(path_ / "config.json");
    out << R"({"architectures": [")" << m.architecture << R"("], "hidden_act": "silu",)"
        << R"("rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 8192,)"
        << R"("eos_token_id": 0, "tie_word_embeddings": false, "num_hidden_layers": )" << m.layers
        << R"(, "hidden_size": )" << m.hidden << R"(, "intermediate_size": )" << m.inner
        << R"(, "num_attention_heads": )" << m.heads << R"(, "num_key_value_heads": )" << m.kv_heads
        << R"(, "head_dim": )" << m.head_dim << R"(, "vocab_size": )" << m.vocab;
    if (m.window > 0) out << R"(, "sliding_window": )" << m.window;
    out << "}";
  }
  ~RandomModelFolder() { std::filesystem::remove_all(path_); }
  RandomModelFolder(const RandomModelFolder&) = delete;
  RandomModelFolder& operator=(const RandomModelFolder&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

inline std::unique_ptr<engine::Engine> open_random(const RandomModel& m, engine::EngineOptions o) {
  const RandomModelFolder folder(m);
  o.model_dir = folder.path();
  o.random_weights = 3;
  return engine::Engine::open(o);
}

// Whether an engine for this model in bf16 has programs that were fused: they are for NVIDIA's
// cards; through HIP not in every build.
inline bool is_fused(const RandomModel& m, const engine::Engine& e) {
  return ops::has_fast_attention(m.head_dim) &&
         (e.info().device.starts_with("cuda") || LIMPET_HIP_PLANS == 1);
}

}  // namespace limpet::test
