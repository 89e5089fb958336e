// Tiles of a row-major matrix through the copy engine, which swizzles them on their way as
// warp-group products want them (gpu_warpgroup.cuh), and to several blocks of a cluster at once.
//
// A TileMap describes one matrix of bf16 [rows, width]; tiles are `box` rows of 64 elements, what
// lies beyond the matrix arrives as zeros. A kernel takes it as a `const __grid_constant__`
// parameter. A stream of the host makes it anew for each launch: it holds the matrix's address.
//
// Not through HIP, whose interface has no such maps: kTileMaps.
#pragma once
#include "ops/gpu_warpgroup.cuh"

#if !defined(LIMPET_GPU_HIP)
#include <cuda.h>
#endif

namespace limpet::ops {
namespace {

#if defined(LIMPET_GPU_HIP)
constexpr bool kTileMaps = false;
#else
constexpr bool kTileMaps = true;
using TileMap = CUtensorMap;

// from: 16-byte aligned, as is `stride`, in bytes; box: at most 256. False: the driver refuses.
inline bool make_tile_map(TileMap* to, const uint16_t* from, int64_t rows, int64_t width,
                          int64_t stride, int box) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult how{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               12000, cudaEnableDefault, &how);
    return error == cudaSuccess && how == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(found)
               : Encode{};
  }();
  if (encode == nullptr) return false;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t boxes[] = {64, static_cast<cuuint32_t>(box)}, ones[] = {1, 1};
  return encode(to, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint16_t*>(from), sizes,
                strides, boxes, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) ==
         CUDA_SUCCESS;
}

#if LIMPET_GPU_WGMMA
__device__ __forceinline__ void prefetch_map(const TileMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// What createpolicy.fractional.L2::evict_first makes, for all bytes.
constexpr uint64_t kReadOnce = 0x12f0000000000000;
// The tile from (row, column) on, to this block; `to` and `barrier`: addresses of shared memory.
// Weights are read once: they go first when the second-level cache needs room.
__device__ __forceinline__ void copy_tile_once(uint32_t to, const TileMap* map, int column,
                                               int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier), "l"(kReadOnce)
      : "memory");
}
__device__ __forceinline__ void copy_tile(uint32_t to, const TileMap* map, int column, int row,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
// To the same place of each block of the cluster in `blocks`, whose own barrier counts it.
__device__ __forceinline__ void copy_tile_to(uint32_t blocks, uint32_t to, const TileMap* map,
                                             int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(static_cast<uint16_t>(blocks))
      : "memory");
}
#endif
#endif

}  // namespace
}  // namespace limpet::ops
