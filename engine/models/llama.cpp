// Llama: attention_bias covers all four projections.
#include "engine/models/architecture.h"
#include "engine/models/decoder.h"

namespace limpet::engine {
namespace {

hir::Module build(const ModelConfig& config, const hir::Bounds& bounds) {
  return build_decoder(config, bounds, {.qkv_bias = config.attention_bias,
                                        .output_bias = config.attention_bias,
                                        .mlp_bias = config.mlp_bias});
}

}  // namespace

const Architecture kLlama{"LlamaForCausalLM", build, no_prediction_weights};

}  // namespace limpet::engine
