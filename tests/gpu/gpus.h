// The GPUs that this build and this machine have.
#pragma once
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/make_backend.h"

namespace limpet::test {

// One of each kind, as --device takes them; `say`: why there is none of a kind.
inline std::vector<std::string> gpus(bool say = false) {
  std::vector<std::string> all;
  for (const DeviceKind kind : {DeviceKind::cuda, DeviceKind::hip}) {
    try {
      make_backend({kind, 0}, {.fused = false});
      all.push_back(to_string({kind, 0}));
    } catch (const std::runtime_error& e) {
      if (say) std::printf("no tests on %s: %s\n", name_of(kind), e.what());
    }
  }
  return all;
}

}  // namespace limpet::test
