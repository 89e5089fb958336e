#include "backends/gpu/vendor_product.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

std::unique_ptr<VendorProducts> VendorProducts::open(void*, size_t, std::string* reason) {
  *reason = "HIP runs on this program's own kernels alone";
  return nullptr;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
