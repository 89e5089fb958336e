// Kernels that only benches need.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/gpu.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

// random_element() in every element.
void fill_random(std::byte* to, DType dtype, int64_t elements, uint64_t seed, float spread,
                 GpuStream stream);
// Reads all bytes (a multiple of 16) once, past the caches; `sum` [4 bytes] keeps it honest.
void read_all(const std::byte* from, int64_t bytes, std::byte* sum, int processors,
              GpuStream stream);

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
