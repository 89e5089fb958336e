// Qwen3: q and k are normed per head.
#include "engine/models/architecture.h"
#include "engine/models/decoder.h"

namespace limpet::engine {
namespace {

hir::Module build(const ModelConfig& config, const hir::Bounds& bounds) {
  return build_decoder(config, bounds, {.qkv_bias = config.attention_bias,
                                        .output_bias = config.attention_bias,
                                        .head_norm = true});
}

}  // namespace

const Architecture kQwen3{"Qwen3ForCausalLM", build, no_prediction_weights};

}  // namespace limpet::engine
