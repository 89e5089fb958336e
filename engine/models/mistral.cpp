// Mistral: no bias anywhere, a sliding window.
#include "engine/models/architecture.h"
#include "engine/models/decoder.h"

namespace limpet::engine {
namespace {

hir::Module build(const ModelConfig& config, const hir::Bounds& bounds) {
  return build_decoder(config, bounds, {});
}

}  // namespace

const Architecture kMistral{"MistralForCausalLM", build, no_prediction_weights};

}  // namespace limpet::engine
