// Qwen2: q, k and v always have a bias.
#include "engine/models/architecture.h"
#include "engine/models/decoder.h"

namespace limpet::engine {
namespace {

hir::Module build(const ModelConfig& config, const hir::Bounds& bounds) {
  return build_decoder(config, bounds, {.qkv_bias = true});
}

}  // namespace

const Architecture kQwen2{"Qwen2ForCausalLM", build, no_prediction_weights};

}  // namespace limpet::engine
