// The uniform number in [0, 1) of a position: Philox4x32-10 (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3"), key = seed, counter = position; 53 bits. The same on any device.
#pragma once
#include <cstdint>

namespace limpet::ops {

constexpr double philox_uniform(uint64_t seed, int64_t position) {
  constexpr uint64_t kMultiply0 = 0xD2511F53, kMultiply1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const auto counter = static_cast<uint64_t>(position);
  uint32_t x[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiply0 * x[0], product1 = kMultiply1 * x[2];
    const uint32_t next0 = static_cast<uint32_t>(product1 >> 32) ^ x[1] ^ key0;
    const uint32_t next2 = static_cast<uint32_t>(product0 >> 32) ^ x[3] ^ key1;
    x[1] = static_cast<uint32_t>(product1);
    x[3] = static_cast<uint32_t>(product0);
    x[0] = next0;
    x[2] = next2;
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  const uint64_t bits = (static_cast<uint64_t>(x[0]) << 32) | x[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace limpet::ops
