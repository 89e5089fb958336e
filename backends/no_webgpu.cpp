#include "backends/makers.h"

namespace limpet {

std::unique_ptr<Backend> make_webgpu_backend(const Device&, const BackendOptions&) {
  throw_not_built(DeviceKind::webgpu, "LIMPET_WEBGPU");
}

}  // namespace limpet
