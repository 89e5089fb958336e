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
  // From here on relative to `now`, no less than the highest score of what comes next.
  __device__ __forceinline__ void turn_to(float now) {
    const float old = top == now ? 1.0f : exp2_fast(top - now);
    top = now, total *= old;
    sum.x *= old, sum.y *= old, sum.z *= old, sum.w *= old;
  }
  __device__ __forceinline__ void add_below(float highest, float share, const float4& v) {
    const float f = highest == -INFINITY ? 0.0f : exp2_fast(highest - top);
    total = fmaf(f, share, total);
    sum.x = fmaf(f, v.x, sum.x), sum.y = fmaf(f, v.y, sum.y);
    sum.z = fmaf(f, v.z, sum.z), sum.w = fmaf(f, v.w, sum.w);
  }
  __device__ __forceinline__ void write(uint16_t* to) const {
    const float by = 1.0f / total;
    *reinterpret_cast<uint2*>(to) =
        make_uint2(pack_bf16(sum.x * by, sum.y * by), pack_bf16(sum.z * by, sum.w * by));
  }
};

// Parts p, p + kMergeLanes, … of a head are added one after the other, and these sums in order.
// place.top(p) is part p's highest score and its sum, place.values(p, i) its elements 4 i … + 3.
constexpr int kMergeLanes = 8;

// By a warp.
template <int Dim, class Place>
__device__ __forceinline__ void merge_head(const Place& place, int begin, int end,
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
