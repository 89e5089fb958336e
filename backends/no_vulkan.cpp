#include "backends/makers.h"

namespace limpet {

std::unique_ptr<Backend> make_vulkan_backend(const Device&, const BackendOptions&) {
  throw_not_built(DeviceKind::vulkan, "LIMPET_VULKAN");
}

}  // namespace limpet
