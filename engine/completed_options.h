// An engine's options as they are meant for one model.
#pragma once
#include "engine/config.h"
#include "engine/engine.h"
#include "engine/kv_layout.h"

namespace limpet::engine {

KvLayout layout_of(const ModelConfig& c, Precision precision);

// Options with what 0 stands for filled in, and bounded. Throws std::runtime_error, which says what
// to set.
EngineOptions completed(EngineOptions o, const ModelConfig& c);

}  // namespace limpet::engine
