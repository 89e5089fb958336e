// Random data that needs no state: element i of a seed, the same on any device.
#pragma once
#include <cstdint>

namespace limpet {

// Uniform in ±spread (Steele et al. 2014, the SplitMix64 mixer).
constexpr float random_element(uint64_t seed, uint64_t i, float spread) {
  uint64_t z = seed * 0xd1342543de82ef95ull + (i + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return (static_cast<float>(z >> 40) - 8388607.5f) * (spread / 8388608.0f);
}

}  // namespace limpet
