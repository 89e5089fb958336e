// The trunk that the Llama family shares; the architectures differ in the details of DecoderStyle.
#pragma once
#include <string>
#include <vector>

#include "engine/config.h"
#include "engine/hir.h"

namespace limpet::engine {

struct DecoderStyle {
  bool qkv_bias = false;
  bool output_bias = false;  // of the attention's output projection
  bool mlp_bias = false;
  bool head_norm = false;  // q and k are normed per head before they are rotated
};

// Embedding, layers of (norm, attention, norm, gated MLP), final norm, head.
hir::Module build_decoder(const ModelConfig& config, const hir::Bounds& bounds,
                          const DecoderStyle& style);

// The weights of one such layer under `prefix` ("model.layers.0."), by name and shape.
std::vector<hir::WeightDecl> layer_weights(const ModelConfig& config, const std::string& prefix,
                                           const DecoderStyle& style);

// For architectures without prediction layers: none; throws when the config claims some.
std::vector<hir::WeightDecl> no_prediction_weights(const ModelConfig& config);

}  // namespace limpet::engine
