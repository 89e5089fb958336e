// Models of published shapes whose weights are random.
#pragma once
#include <cstdint>
#include <string>

namespace limpet::bench {

// A folder with the config.json of these shapes ("llama-3.1-8b", "qwen2-0.5b", …), for
// EngineOptions::random_weights. std::runtime_error for others; it lists those that there are.
std::string model_folder(const std::string& shapes);
// Elements of all weights and biases.
int64_t parameters(const std::string& shapes);
// Whether the embedding table is the head's matrix too.
bool heads_share_table(const std::string& shapes);

}  // namespace limpet::bench
