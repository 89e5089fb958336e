// MiMo: the trunk of Qwen2, and layers that predict the token after the next.
#include "engine/models/architecture.h"
#include "engine/models/decoder.h"

namespace limpet::engine {
namespace {

DecoderStyle style(const ModelConfig& config) { return {.qkv_bias = config.attention_bias}; }

hir::Module build(const ModelConfig& config, const hir::Bounds& bounds) {
  return build_decoder(config, bounds, style(config));
}

// Such a layer reads [hidden_layernorm(h_t) ; token_layernorm(e_{t+1})] through input_proj.
std::vector<hir::WeightDecl> prediction_weights(const ModelConfig& config) {
  std::vector<hir::WeightDecl> all;
  for (int64_t i = 0; i < config.prediction_layers; ++i) {
    const std::string p = "model.mtp_layers." + std::to_string(i) + ".";
    const auto layer = layer_weights(config, p, style(config));
    all.insert(all.end(), layer.begin(), layer.end());
    for (const char* norm : {"hidden_layernorm", "token_layernorm", "final_layernorm"}) {
      all.push_back({p + norm + ".weight", {config.hidden}});
    }
    all.push_back({p + "input_proj.weight", {config.hidden, 2 * config.hidden}});
  }
  return all;
}

}  // namespace

const Architecture kMimo{"MiMoForCausalLM", build, prediction_weights};

}  // namespace limpet::engine
