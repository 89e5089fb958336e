#include "backends/makers.h"

namespace limpet {

std::unique_ptr<Backend> make_mlx_backend(const Device&, const BackendOptions&) {
  throw_not_built(DeviceKind::mlx, "LIMPET_MLX");
}

}  // namespace limpet
