// Small copies between pinned host memory and the device by a kernel, which reads and writes the
// host's memory itself: between two programs a copy engine would have to be waited for on either
// side, for longer than the copy takes; and it serves one copy after the other, so a step's tokens
// would stand behind megabytes of KV that move beside it.
#pragma once
#include <cstdint>

#include "ops/gpu.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

constexpr int64_t kMostWordBytes = 64 << 10;  // larger ones are for the copy engine

// Enqueues; `from` and `to` are device or pinned memory. False, and nothing is enqueued: it is not
// made of 4-byte words, or too large, or empty.
bool copy_words(void* to, const void* from, int64_t bytes, GpuStream stream);

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
