#include "backends/gpu/copy_words.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;

template <class Word>
__global__ void copy(Word* to, const Word* from, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) to[i] = from[i];
}

template <class Word>
void enqueue(void* to, const void* from, int64_t bytes, GpuStream stream) {
  const auto count = static_cast<int>(bytes / int64_t{sizeof(Word)});
  copy<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      static_cast<Word*>(to), static_cast<const Word*>(from), count);
}

}  // namespace

bool copy_words(void* to, const void* from, int64_t bytes, GpuStream stream) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) |
                        static_cast<uint64_t>(bytes);
  if (bytes <= 0 || bytes > kMostWordBytes || bits % 4 != 0) return false;
  bits % 16 == 0 ? enqueue<uint4>(to, from, bytes, stream)
                 : enqueue<uint32_t>(to, from, bytes, stream);
  return true;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
