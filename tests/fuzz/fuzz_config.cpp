// A config.json. What is accepted must be a model whose sizes make sense.
#include <cmath>
#include <stdexcept>

#include "engine/config.h"
#include "tests/fuzz/target.h"

namespace limpet::fuzz {
namespace {

bool run(std::string_view input) {
  engine::ModelConfig c;
  try {
    c = engine::parse_config(input, "config.json");
  } catch (const std::runtime_error&) {
    return false;  // refused by name
  }
  expect(c.vocab > 0 && c.hidden > 0 && c.intermediate > 0 && c.layers > 0);
  expect(c.heads > 0 && c.kv_heads > 0 && c.heads % c.kv_heads == 0);
  expect(c.head_dim > 0 && c.head_dim % 2 == 0 && c.max_context > 0 && c.norm_eps > 0);
  expect(c.window.size() == static_cast<size_t>(c.layers) && c.prediction_layers >= 0);
  for (const int64_t w : c.window) expect(w >= 0);
  const auto frequencies = engine::rope_frequencies(c.rope, c.head_dim);
  expect(frequencies.size() == static_cast<size_t>(c.head_dim / 2));
  for (const float f : frequencies) expect(std::isfinite(f));
  return true;
}

std::vector<std::string> seeds() {
  std::vector<std::string> out;
  for (const char* folder :
       {"models/limpet-tiny", "tests/golden/llama-yarn", "tests/golden/mistral-yarn-mscale",
        "tests/golden/qwen2-dynamic", "tests/golden/qwen3-linear",
        "tests/golden/llama-gqa", "tests/golden/mistral-swa",
        "tests/golden/qwen2-gqa7", "tests/golden/qwen3-qknorm", "tests/golden/whisper-micro"}) {
    out.push_back(read_file(std::string(folder) + "/config.json"));
  }
  out.push_back(R"({"architectures":["LlamaForCausalLM"],"vocab_size":64,"hidden_size":64,)"
                R"("intermediate_size":64,"num_hidden_layers":2,"num_attention_heads":4,)"
                R"("max_position_embeddings":64,"rms_norm_eps":1e-5,"hidden_act":"silu",)"
                R"("rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,)"
                R"("high_freq_factor":4.0,"original_max_position_embeddings":8192},)"
                R"("eos_token_id":[1,2]})");
  return out;
}

}  // namespace

const Target kConfig{run, seeds};

}  // namespace limpet::fuzz
