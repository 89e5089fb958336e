// The architectures that limpet knows, by the name that config.json gives.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "engine/config.h"
#include "engine/hir.h"

namespace limpet::engine {

struct Architecture {
  std::string_view name;
  // The causal decode program for one bucket: outputs "hidden" and "logits" of selected rows.
  hir::Module (*build)(const ModelConfig& config, const hir::Bounds& bounds);
  // Weights of its multi-token prediction layers, by name and shape.
  std::vector<hir::WeightDecl> (*prediction_weights)(const ModelConfig& config);
};

// Throws std::runtime_error that names the architecture and those supported.
const Architecture& find_architecture(std::string_view name);

// engine/models/<architecture>.cpp
extern const Architecture kLlama, kMistral, kQwen2, kQwen3, kMimo;

}  // namespace limpet::engine
