#include "backends/makers.h"

namespace limpet {

std::unique_ptr<Backend> make_cuda_backend(const Device&, const BackendOptions&) {
  throw_not_built(DeviceKind::cuda, "LIMPET_CUDA");
}

}  // namespace limpet
