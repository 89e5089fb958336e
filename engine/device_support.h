// What a kind of device means to the engine.
#pragma once
#include "backends/device.h"

namespace limpet::engine {

// Whether KV is kept resident in the device's own memory, apart from the host's. False for the
// CPU: host memory is its own residence, nothing crosses a bus.
constexpr bool supports_resident_kv(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::cuda:
    case DeviceKind::hip:
    case DeviceKind::vulkan:
    case DeviceKind::metal:
    case DeviceKind::mlx:
    case DeviceKind::webgpu: return true;
    case DeviceKind::cpu: return false;
  }
  return false;
}

}  // namespace limpet::engine
