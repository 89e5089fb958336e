// How far logits are from others, whatever their scale.
#pragma once
#include <cmath>
#include <span>

namespace limpet::test {

// ‖got − want‖ / ‖want‖; 1 for different numbers of them.
inline double relative(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size()) return 1;
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(got[i] - want[i], 2.0);
    norm += std::pow(want[i], 2.0);
  }
  return std::sqrt(error / norm);
}

}  // namespace limpet::test
