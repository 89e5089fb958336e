#include "backends/gpu/memory.h"

#include <stdexcept>
#include <string>

#include "backends/backend.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

void gpu_check(GpuError error, const char* what) {
  if (error == LIMPET_GPU(Success)) return;
  const std::string reason = std::string(what) + ": " + LIMPET_GPU(GetErrorString)(error);
  (void)LIMPET_GPU(GetLastError)();  // what does not stick is not told again
  if (error == LIMPET_GPU(ErrorMemoryAllocation)) {
    throw std::runtime_error("out of memory (" + reason +
                             "); use a smaller model, fewer KV pages or smaller batches");
  }
  throw DeviceLost("the GPU has failed (" + reason + ")");
}

DeviceMemory::DeviceMemory(int64_t bytes) : bytes_(bytes) {
  if (bytes < 0) throw std::logic_error("DeviceMemory: negative size");
  if (bytes == 0) return;
  void* at = nullptr;
  gpu_check(LIMPET_GPU(Malloc)(&at, static_cast<size_t>(bytes)),
            ("allocating " + std::to_string(bytes) + " bytes on the device").c_str());
  data_ = static_cast<std::byte*>(at);
}

DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) (void)LIMPET_GPU(Free)(data_);
}

PinnedMemory::PinnedMemory(int64_t bytes) : bytes_(bytes) {
  if (bytes < 0) throw std::logic_error("PinnedMemory: negative size");
  if (bytes == 0) return;
  void* at = nullptr;
  gpu_check(gpu_allocate_pinned(&at, static_cast<size_t>(bytes)),
            ("allocating " + std::to_string(bytes) + " bytes of pinned memory").c_str());
  data_ = static_cast<std::byte*>(at);
}

PinnedMemory::~PinnedMemory() {
  if (data_ != nullptr) (void)gpu_free_pinned(data_);
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
