#include "backends/gpu/small_copy.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

constexpr int64_t kMost = 64 << 10;
constexpr int kThreads = 256;

__global__ void copy_words(uint32_t* to, const uint32_t* from, int words) {
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i < words) to[i] = from[i];
}

}  // namespace

bool copies_by_kernel(const void* to, const void* from, int64_t bytes) {
  const auto places = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  return bytes > 0 && bytes <= kMost && (places | static_cast<uintptr_t>(bytes)) % 4 == 0;
}

void copy_by_kernel(void* to, const void* from, int64_t bytes, GpuStream stream) {
  const int words = static_cast<int>(bytes / 4);
  const auto blocks = static_cast<unsigned>((words + kThreads - 1) / kThreads);
  copy_words<<<blocks, kThreads, 0, stream>>>(static_cast<uint32_t*>(to),
                                              static_cast<const uint32_t*>(from), words);
  gpu_check(LIMPET_GPU(GetLastError)(), "copying a few bytes");
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
