// Names of devices: "cpu", "cuda:0", "vulkan:1".
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace limpet {

// Every kind exists here, whether or not this build has its backend.
enum class DeviceKind : uint8_t { cpu, cuda, hip, vulkan, metal, mlx, webgpu };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

const char* name_of(DeviceKind kind);
// "cuda:0"; "cpu" for the one CPU.
std::string to_string(const Device& device);
// A kind, and optionally ":" and an index. Throws std::runtime_error that lists the kinds.
Device parse_device(std::string_view text);

}  // namespace limpet
