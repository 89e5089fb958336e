// x · weightᵀ on a GPU, in the plain way: for f32, and for shapes that no faster kernel takes.
//
// Few rows: a warp for each output, which reads its weights once for up to kFewRows rows of x.
// More: tiles of kTile × kTile outputs through shared memory. Sums are f32; each kernel adds in one
// order over k, so within one of them a row's bits depend on that row and the weight alone.
#pragma once
#include "ops/linear/weight.h"
#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

struct Product {
  const float* x;
  int64_t x_stride;
  const void* weight;  // [n, k], rows weight_stride(k) apart
  int64_t rows, n, k;
  float* y;
  int64_t y_stride;
  const float* bias;      // [n], or null
  const float* residual;  // [rows, n], or null; may be y
  int64_t residual_stride;
  const int32_t* count;
  bool exact;  // bf16 weights: x is not rounded to bf16

  __device__ void finish(int64_t row, int64_t i, float sum) const {
    if (bias != nullptr) sum += bias[i];
    if (residual != nullptr) sum += residual[row * residual_stride + i];
    y[row * y_stride + i] = sum;
  }
};

constexpr int kFewRows = 8, kFewThreads = 256;
constexpr int kTile = 64, kTileDepth = 16, kTileThreads = 256, kPerThread = 4;

__device__ inline float input_of(float x, float /*weight*/, bool /*exact*/) { return x; }
__device__ inline float input_of(float x, uint16_t /*weight*/, bool exact) {
  return exact ? x : as_float(as_bf16(x));
}

// 8 elements of a row of weights; they begin at a multiple of 16 bytes.
__device__ inline void load_eight(const float* from, float* to) {
  const float4 a = reinterpret_cast<const float4*>(from)[0];
  const float4 b = reinterpret_cast<const float4*>(from)[1];
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
  to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}
__device__ inline void load_eight(const uint16_t* from, float* to) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(pairs[i] << 16);
    to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

template <class Element>
__global__ void few_rows(Product p) {
  const int64_t first = int64_t{blockIdx.y} * kFewRows, counted = counted_rows(p.count, p.rows);
  if (first >= counted) return;
  const int rows = static_cast<int>(counted - first < kFewRows ? counted - first : kFewRows);
  const int64_t i = int64_t{blockIdx.x} * (kFewThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= p.n) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const Element* weight = static_cast<const Element*>(p.weight) + i * weight_stride(p.k);
  float sums[kFewRows] = {};
  for (int64_t at = int64_t{lane} * 8; at < p.k; at += kWarp * 8) {
    float w[8];
    load_eight(weight + at, w);
    const int some = static_cast<int>(p.k - at < 8 ? p.k - at : 8);
#pragma unroll
    for (int r = 0; r < kFewRows; ++r) {
      if (r >= rows) continue;  // no break: every compiler is to unroll this
      const float* x = p.x + (first + r) * p.x_stride + at;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (j < some) sums[r] += w[j] * input_of(x[j], Element{}, p.exact);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kFewRows; ++r) {
    if (r >= rows) continue;
    const float sum = warp_sum(sums[r]);
    if (lane == 0) p.finish(first + r, i, sum);
  }
}

template <class Element>
__global__ void many_rows(Product p) {
  const int64_t row0 = int64_t{blockIdx.y} * kTile, out0 = int64_t{blockIdx.x} * kTile;
  const int64_t rows = counted_rows(p.count, p.rows);
  if (row0 >= rows) return;
  __shared__ float xs[kTileDepth][kTile + 1], ws[kTileDepth][kTile + 1];
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float sums[kPerThread][kPerThread] = {};
  const auto* weight = static_cast<const Element*>(p.weight);
  for (int64_t depth = 0; depth < p.k; depth += kTileDepth) {
    for (int i = threadIdx.x; i < kTile * kTileDepth; i += kTileThreads) {
      const int at = i / kTileDepth, d = i % kTileDepth;
      const int64_t k = depth + d;
      const bool x_there = row0 + at < rows && k < p.k, w_there = out0 + at < p.n && k < p.k;
      xs[d][at] = x_there
                      ? input_of(p.x[(row0 + at) * p.x_stride + k], Element{}, p.exact)
                      : 0.0f;
      ws[d][at] = w_there ? as_float(weight[(out0 + at) * weight_stride(p.k) + k]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kTileDepth; ++d) {
#pragma unroll
      for (int r = 0; r < kPerThread; ++r) {
#pragma unroll
        for (int c = 0; c < kPerThread; ++c) {
          sums[r][c] += xs[d][ty * kPerThread + r] * ws[d][tx + 16 * c];
        }
      }
    }
    __syncthreads();
  }
  for (int r = 0; r < kPerThread; ++r) {
    const int64_t row = row0 + ty * kPerThread + r;
    for (int c = 0; c < kPerThread; ++c) {
      const int64_t i = out0 + tx + 16 * c;
      if (row < rows && i < p.n) p.finish(row, i, sums[r][c]);
    }
  }
}

template <class Element>
void multiply_as(GpuContext& gpu, const Product& p) {
  if (p.rows <= 2 * kFewRows) {
    const int per_block = kFewThreads / gpu.warp;
    const dim3 grid(static_cast<unsigned>((p.n + per_block - 1) / per_block),
                    static_cast<unsigned>((p.rows + kFewRows - 1) / kFewRows));
    few_rows<Element><<<grid, kFewThreads, 0, gpu.stream>>>(p);
  } else {
    const dim3 grid(static_cast<unsigned>((p.n + kTile - 1) / kTile),
                    static_cast<unsigned>((p.rows + kTile - 1) / kTile));
    many_rows<Element><<<grid, kTileThreads, 0, gpu.stream>>>(p);
  }
}

inline void multiply(GpuContext& gpu, const Product& p, DType weights) {
  weights == DType::f32 ? multiply_as<float>(gpu, p) : multiply_as<uint16_t>(gpu, p);
}

}  // namespace
}  // namespace limpet::ops
