#include "engine/engine.h"

namespace limpet::engine {

std::optional<std::vector<float>> compact(std::span<const float> buffer, int64_t dim,
                                          int64_t upper, int64_t past_len, int64_t new_rows) {
  const int64_t old_rows = past_len - new_rows;
  if (dim <= 0 || new_rows < 0 || old_rows < 0 || old_rows > upper ||
      std::ssize(buffer) / dim != upper + new_rows || std::ssize(buffer) % dim != 0) {
    return std::nullopt;
  }
  std::vector<float> rows(buffer.begin(), buffer.begin() + old_rows * dim);
  rows.insert(rows.end(), buffer.begin() + upper * dim, buffer.end());
  return rows;
}

}  // namespace limpet::engine
