#include "backends/makers.h"

namespace limpet {

std::unique_ptr<Backend> make_hip_backend(const Device&, const BackendOptions&) {
  throw_not_built(DeviceKind::hip, "LIMPET_HIP");
}

}  // namespace limpet
