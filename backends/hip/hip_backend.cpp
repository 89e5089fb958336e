#include "backends/gpu/gpu_backend.h"
#include "backends/makers.h"

namespace limpet {

std::unique_ptr<Backend> make_hip_backend(const Device& device, const BackendOptions& options) {
  return make_gpu_backend(device, options);
}

}  // namespace limpet
