// A few bytes between pinned memory and the device by a kernel, which reads or writes the host's
// memory itself. The engines that copy serve one copy after the other: a step's tokens would wait
// there behind megabytes of KV that move beside it.
#pragma once
#include <cstdint>

#include "ops/gpu.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

// Whether it is small, and both ends lie on whole words.
bool copies_by_kernel(const void* to, const void* from, int64_t bytes);
// One end may be pinned memory. In the stream's order.
void copy_by_kernel(void* to, const void* from, int64_t bytes, GpuStream stream);

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
