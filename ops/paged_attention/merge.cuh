// Parts of softmax-weighted sums merged by log-sum-exp, in a fixed order (Dao et al. 2023).
#pragma once
#include "ops/gpu_isa.cuh"

namespace limpet::ops {
namespace {

#if LIMPET_GPU_PTX
// Four elements of a head, merged from parts one after the other. Scores in units of log 2.
struct Merged {
  float top = -INFINITY, total = 0;
  float4 sum = make_float4(0, 0, 0, 0);

  __device__ __forceinline__ void add(float highest, float share, const float4& v) {
    const float now = fmaxf(top, highest);
    if (now == -INFINITY) return;
    const float old = exp2_fast(top - now), f = exp2_fast(highest - now);
    top = now;
    // fmaf, so that no compiler fuses them one way here and another way there
    total = fmaf(old, total, f * share);
    sum.x = fmaf(old, sum.x, f * v.x), sum.y = fmaf(old, sum.y, f * v.y);
    sum.z = fmaf(old, sum.z, f * v.z), sum.w = fmaf(old, sum.w, f * v.w);
  }
  __device__ __forceinline__ void write(uint16_t* to) const {
    const float by = 1.0f / total;
    *reinterpret_cast<uint2*>(to) =
        make_uint2(pack_bf16(sum.x * by, sum.y * by), pack_bf16(sum.z * by, sum.w * by));
  }
};

// Parts p, p + kMergeLanes, … of a head are added one after the other, and these sums in order:
// one tree, however many warps work on it. place.top(p) is part p's highest score and its sum,
// place.values(p, i) its elements 4 i … 4 i + 3.
constexpr int kMergeLanes = 8;

// By a block of kMergeLanes warps.
template <int Dim, class Place>
__device__ __forceinline__ void merge_head(const Place& place, int begin, int end, uint16_t* out) {
  constexpr int kBatch = 4;  // asked for before one is needed
  __shared__ float4 sums[kMergeLanes][Dim / 4];
  __shared__ float2 tops[kMergeLanes];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = lane; i < Dim / 4; i += 32) {
    Merged all;
    for (int p0 = begin + warp; p0 < end; p0 += kMergeLanes * kBatch) {
      float2 top[kBatch];
      float4 values[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int p = min(p0 + b * kMergeLanes, end - 1);
        top[b] = place.top(p), values[b] = place.values(p, i);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (p0 + b * kMergeLanes < end) all.add(top[b].x, top[b].y, values[b]);
      }
    }
    sums[warp][i] = all.sum;
    if (i == 0) tops[warp] = make_float2(all.top, all.total);
  }
  __syncthreads();
  const int lanes = min(end - begin, kMergeLanes);
  for (int i = static_cast<int>(threadIdx.x); i < Dim / 4; i += static_cast<int>(blockDim.x)) {
    Merged all;
    for (int l = 0; l < lanes; ++l) all.add(tops[l].x, tops[l].y, sums[l][i]);
    all.write(out + i * 4);
  }
}

// By a warp.
template <int Dim, class Place>
__device__ __forceinline__ void merge_head_alone(const Place& place, int begin, int end,
                                                 uint16_t* out) {
  for (int i = static_cast<int>(threadIdx.x) % 32; i < Dim / 4; i += 32) {
    Merged lanes[kMergeLanes], all;
    for (int p0 = begin; p0 < end; p0 += kMergeLanes) {
      float2 top[kMergeLanes];
      float4 values[kMergeLanes];
#pragma unroll
      for (int l = 0; l < kMergeLanes; ++l) {
        if (p0 + l < end) top[l] = place.top(p0 + l), values[l] = place.values(p0 + l, i);
      }
#pragma unroll
      for (int l = 0; l < kMergeLanes; ++l) {
        if (p0 + l < end) lanes[l].add(top[l].x, top[l].y, values[l]);
      }
    }
#pragma unroll
    for (int l = 0; l < kMergeLanes; ++l) {
      if (begin + l < end) all.add(lanes[l].top, lanes[l].total, lanes[l].sum);
    }
    all.write(out + i * 4);
  }
}
#endif

}  // namespace
}  // namespace limpet::ops
