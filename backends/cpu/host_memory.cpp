#include "backends/cpu/host_memory.h"

#include <sys/mman.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace limpet {
namespace {

constexpr int64_t kWorthLargePages = 8 << 20;

}  // namespace

HostMemory::HostMemory(int64_t bytes) : bytes_(bytes) {
  if (bytes < 0) throw std::logic_error("HostMemory: negative size");
  if (bytes == 0) return;
  void* at = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) {
    throw std::runtime_error("no memory for " + std::to_string(bytes) +
                             " bytes; use a smaller model, or fewer KV pages");
  }
  data_ = static_cast<std::byte*>(at);
#ifdef MADV_HUGEPAGE
  // A wish; refusal changes nothing.
  if (bytes >= kWorthLargePages) madvise(at, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace limpet
