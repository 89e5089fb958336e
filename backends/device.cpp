#include "backends/device.h"

#include <array>
#include <charconv>
#include <stdexcept>

namespace limpet {
namespace {

constexpr std::array<const char*, 7> kNames = {"cpu",   "cuda", "hip",   "vulkan",
                                               "metal", "mlx",  "webgpu"};

}  // namespace

const char* name_of(DeviceKind kind) { return kNames.at(static_cast<size_t>(kind)); }

std::string to_string(const Device& device) {
  if (device.kind == DeviceKind::cpu) return name_of(device.kind);
  return std::string(name_of(device.kind)) + ":" + std::to_string(device.index);
}

Device parse_device(std::string_view text) {
  const std::string_view kind = text.substr(0, text.find(':'));
  Device device;
  bool ok = false;
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kind == kNames[i]) device.kind = static_cast<DeviceKind>(i), ok = true;
  }
  if (ok && kind.size() < text.size()) {
    const char *begin = text.data() + kind.size() + 1, *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(begin, end, device.index);
    ok = error == std::errc() && stop == end && device.index >= 0 &&
         (device.kind != DeviceKind::cpu || device.index == 0);
  }
  if (ok) return device;
  throw std::runtime_error("device '" + std::string(text) +
                           "' is not known; use cpu, or one of cuda, hip, vulkan, metal, mlx, "
                           "webgpu with an index, as in cuda:0");
}

}  // namespace limpet
