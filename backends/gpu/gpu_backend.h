// A GPU of either vendor, on one stream.
#pragma once
#include <memory>

#include "backends/make_backend.h"
#include "ops/gpu.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

// Throws std::runtime_error when there is no such device.
std::unique_ptr<Backend> make_gpu_backend(const Device& device, const BackendOptions& options);

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
