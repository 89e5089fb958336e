#include "backends/makers.h"

namespace limpet {

std::unique_ptr<Backend> make_metal_backend(const Device&, const BackendOptions&) {
  throw_not_built(DeviceKind::metal, "LIMPET_METAL");
}

}  // namespace limpet
