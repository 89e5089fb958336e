#include "backends/gpu/bench.h"

#include "backends/random_element.h"
#include "ops/warp.cuh"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 512, kLoads = 8;

__global__ void fill_elements(std::byte* to, DType dtype, int64_t elements, uint64_t seed,
                              float spread) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < elements; i += step) {
    const float v = random_element(seed, static_cast<uint64_t>(i), spread);
    if (dtype == DType::f32) {
      reinterpret_cast<float*>(to)[i] = v;
    } else {
      reinterpret_cast<uint16_t*>(to)[i] = ops::as_bf16(v);
    }
  }
}

__global__ void read_pieces(const uint4* from, int64_t pieces, uint32_t* sum) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  uint32_t all = 0;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + (kLoads - 1) * step < pieces; i += kLoads * step) {
    uint4 v[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) v[j] = ops::load_once(from + i + j * step);
#pragma unroll
    for (int j = 0; j < kLoads; ++j) all ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < pieces; i += step) all ^= from[i].x ^ from[i].y ^ from[i].z ^ from[i].w;
  if (all == 0x12345678u) *sum = all;
}

}  // namespace

void fill_random(std::byte* to, DType dtype, int64_t elements, uint64_t seed, float spread,
                 GpuStream stream) {
  if (elements == 0) return;
  fill_elements<<<2048, kThreads, 0, stream>>>(to, dtype, elements, seed, spread);
  gpu_check(LIMPET_GPU(GetLastError)(), "filling memory");
}

void read_all(const std::byte* from, int64_t bytes, std::byte* sum, int processors,
              GpuStream stream) {
  read_pieces<<<static_cast<unsigned>(4 * processors), kThreads, 0, stream>>>(
      reinterpret_cast<const uint4*>(from), bytes / 16, reinterpret_cast<uint32_t*>(sum));
  gpu_check(LIMPET_GPU(GetLastError)(), "reading memory");
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
