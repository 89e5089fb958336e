#include "backends/make_backend.h"

#include <stdexcept>
#include <string>

#include "backends/makers.h"

namespace limpet {

std::unique_ptr<Backend> make_backend(const Device& device, const BackendOptions& options) {
  switch (device.kind) {
    case DeviceKind::cpu:
      return make_cpu_backend(device, options);
    case DeviceKind::cuda:
      return make_cuda_backend(device, options);
    case DeviceKind::hip:
      return make_hip_backend(device, options);
    case DeviceKind::vulkan:
      return make_vulkan_backend(device, options);
    case DeviceKind::metal:
      return make_metal_backend(device, options);
    case DeviceKind::mlx:
      return make_mlx_backend(device, options);
    case DeviceKind::webgpu:
      return make_webgpu_backend(device, options);
  }
  throw std::logic_error("make_backend: no such kind of device");
}

void throw_not_built(DeviceKind kind, const char* option) {
  throw std::runtime_error(std::string("this version has no ") + name_of(kind) +
                           " backend to build yet (the option " + option +
                           " is to build it); use --device cpu");
}

}  // namespace limpet
