// Lanes, sums and elements, for GPU kernels of any vendor. Every function here is private to the
// file that includes it: the same source is compiled once for each vendor.
#pragma once
#include "ops/gpu.h"

namespace limpet::ops {
namespace {

constexpr int kWarp = LIMPET_GPU_LANES;
constexpr int kMostWarps = 32;  // of a block

#if defined(LIMPET_GPU_PLAYED_WAVES)
constexpr int kMostThreads = 960;  // of a block: there are 15 barriers to meet at
// What lane `lane` of this wave has; two warps meet.
template <class T>
__device__ inline T exchange(T v, int lane) {
  __shared__ uint64_t slots[kMostThreads];
  const int wave = static_cast<int>(threadIdx.x) / kWarp;
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof(v));
  slots[threadIdx.x] = bits;
  __barrier_sync_count(static_cast<unsigned>(wave) + 1, kWarp);
  bits = slots[wave * kWarp + lane];
  __barrier_sync_count(static_cast<unsigned>(wave) + 1, kWarp);
  memcpy(&v, &bits, sizeof(v));
  return v;
}
#else
constexpr int kMostThreads = 1024;  // of a block
#endif

// Between all lanes of a warp, which must come together; of 4 or 8 bytes.
template <class T>
__device__ inline T shuffle_xor(T v, int lanes) {
#if defined(LIMPET_GPU_PLAYED_WAVES)
  return exchange(v, static_cast<int>(threadIdx.x) % kWarp ^ lanes);
#elif LIMPET_GPU_PTX
  return __shfl_xor_sync(~0u, v, lanes);
#else
  return __shfl_xor(v, lanes);
#endif
}
template <class T>
__device__ inline T shuffle(T v, int lane) {
#if defined(LIMPET_GPU_PLAYED_WAVES)
  return exchange(v, lane % kWarp);
#elif LIMPET_GPU_PTX
  return __shfl_sync(~0u, v, lane);
#else
  return __shfl(v, lane);
#endif
}
// 16 bytes that nobody reads again: past the caches.
__device__ inline uint4 load_once(const uint4* from) {
#if LIMPET_GPU_PTX
  return __ldcs(from);
#else
  using Four = uint32_t __attribute__((ext_vector_type(4)));
  const Four v = __builtin_nontemporal_load(reinterpret_cast<const Four*>(from));
  return make_uint4(v.x, v.y, v.z, v.w);
#endif
}

// In one order, whatever the block: every lane gets the same bits.
__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) v += shuffle_xor(v, lanes);
  return v;
}
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) v = fmaxf(v, shuffle_xor(v, lanes));
  return v;
}
// All threads of the block must call it; blockDim.x is a multiple of kWarp.
__device__ inline float block_sum(float v) {
  __shared__ float sums[kMostWarps];
  v = warp_sum(v);
  __syncthreads();  // sums may still be read by a call before
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = v;
  __syncthreads();
  float all = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / kWarp; ++i) all += sums[i];
  return all;
}

__device__ inline float as_float(float v) { return v; }
__device__ inline float as_float(uint16_t bf16) {
  return __uint_as_float(static_cast<uint32_t>(bf16) << 16);
}
// To nearest even; NaN stays NaN.
__device__ inline uint16_t as_bf16(float v) {
  const uint32_t bits = __float_as_uint(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
__device__ inline void store(float v, float* to) { *to = v; }
__device__ inline void store(float v, uint16_t* to) { *to = as_bf16(v); }

// The rows that count, of `rows` that the shapes allow.
__device__ inline int64_t counted_rows(const int32_t* count, int64_t rows) {
  if (count == nullptr) return rows;
  const int64_t n = *count;
  return n < 0 ? 0 : n < rows ? n : rows;
}

}  // namespace
}  // namespace limpet::ops
