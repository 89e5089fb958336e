// Models of published shapes whose weights are random.
#pragma once
#include <string>

namespace limpet::bench {

// A folder with the config.json of these shapes ("qwen2-0.5b", "qwen2-tiny"), for
// EngineOptions::random_weights. std::runtime_error for others.
std::string model_folder(const std::string& shapes);

}  // namespace limpet::bench
