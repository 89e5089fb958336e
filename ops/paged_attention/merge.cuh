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
// one tree, however many warps work on it. A warp takes Lanes of the kMergeLanes sums; a block of
// kMergeLanes / Lanes warps (fewer, when there are fewer parts) takes a head. place.top(p) is part
// p's highest score and its sum, place.values(p, i) its elements 4 i … 4 i + 3.
constexpr int kMergeLanes = 8;
template <int Dim, int Lanes, class Place>
__device__ __forceinline__ void merge_head(const Place& place, int begin, int end, uint16_t* out) {
  constexpr int kBatch = Lanes == 1 ? 4 : 2;
  __shared__ float4 sums[kMergeLanes][Dim / 4];
  __shared__ float2 tops[kMergeLanes];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = lane; i < Dim / 4; i += 32) {
    Merged all[Lanes];
    for (int p0 = begin + warp * Lanes; p0 < end; p0 += kMergeLanes * kBatch) {
      float2 top[kBatch][Lanes];
      float4 values[kBatch][Lanes];
#pragma unroll
      for (int b = 0; b < kBatch * Lanes; ++b) {  // all asked for before one is needed
        const int p = min(p0 + b / Lanes * kMergeLanes + b % Lanes, end - 1);
        top[b / Lanes][b % Lanes] = place.top(p), values[b / Lanes][b % Lanes] = place.values(p, i);
      }
#pragma unroll
      for (int b = 0; b < kBatch * Lanes; ++b) {
        if (p0 + b / Lanes * kMergeLanes + b % Lanes >= end) continue;
        const float2 t = top[b / Lanes][b % Lanes];
        all[b % Lanes].add(t.x, t.y, values[b / Lanes][b % Lanes]);
      }
    }
#pragma unroll
    for (int l = 0; l < Lanes; ++l) {
      sums[warp * Lanes + l][i] = all[l].sum;
      if (i == 0) tops[warp * Lanes + l] = make_float2(all[l].top, all[l].total);
    }
  }
  __syncthreads();
  const int lanes = min(end - begin, kMergeLanes);
  for (int i = static_cast<int>(threadIdx.x); i < Dim / 4; i += static_cast<int>(blockDim.x)) {
    Merged all;
    for (int l = 0; l < lanes; ++l) all.add(tops[l].x, tops[l].y, sums[l][i]);
    all.write(out + i * 4);
  }
}
#endif

}  // namespace
}  // namespace limpet::ops
