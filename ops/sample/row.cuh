// A row of logits that one block works on: its peak, weights, and searches in order of id.
#pragma once
#include "ops/sample/sample.h"
#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

constexpr int kRowThreads = kMostThreads;
constexpr double kOne = 0x1p40;  // the weight of the likeliest token

__device__ inline uint64_t shuffle_xor_u64(uint64_t v, int lanes) {
  const auto low = __float_as_uint(shuffle_xor(__uint_as_float(static_cast<uint32_t>(v)), lanes));
  const auto high =
      __float_as_uint(shuffle_xor(__uint_as_float(static_cast<uint32_t>(v >> 32)), lanes));
  return (static_cast<uint64_t>(high) << 32) | low;
}
__device__ inline uint64_t shuffle_u64(uint64_t v, int lane) {
  const auto low = __float_as_uint(shuffle(__uint_as_float(static_cast<uint32_t>(v)), lane));
  const auto high = __float_as_uint(shuffle(__uint_as_float(static_cast<uint32_t>(v >> 32)), lane));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Of all threads' values; every thread gets the result.
template <class Join>
__device__ uint64_t block_join(uint64_t v, Join join) {
  __shared__ uint64_t warps[kMostWarps];
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) v = join(v, shuffle_xor_u64(v, lanes));
  __syncthreads();
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = v;
  __syncthreads();
  v = warps[0];
  for (int i = 1; i < kRowThreads / kWarp; ++i) v = join(v, warps[i]);
  return v;
}
__device__ inline uint64_t block_sum_u64(uint64_t v) {
  return block_join(v, [](uint64_t a, uint64_t b) { return a + b; });
}
__device__ inline uint64_t block_max_u64(uint64_t v) {
  return block_join(v, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}

// Ordered as the logits are; both zeros are one.
__device__ inline uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The first id at which the values of all ids up to it sum to more than `target`; vocab if none.
// Each warp sums a run of ids; the warp that the sum is reached in walks its run again.
template <class ValueOf>
__device__ int64_t find_in_order(int64_t vocab, uint64_t target, ValueOf value_of) {
  __shared__ uint64_t sums[kMostWarps];
  __shared__ int64_t found;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t run = (vocab + kRowThreads - 1) / kRowThreads * kWarp;
  const int64_t begin = warp * run, end = begin + run < vocab ? begin + run : vocab;
  uint64_t sum = 0;
  for (int64_t i = begin + lane; i < end; i += kWarp) sum += value_of(i);
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) sum += shuffle_xor_u64(sum, lanes);
  __syncthreads();
  if (lane == 0) sums[warp] = sum;
  if (threadIdx.x == 0) found = vocab;
  __syncthreads();
  uint64_t before = 0;
  for (int w = 0; w < warp; ++w) before += sums[w];
  if (before <= target && before + sums[warp] > target) {  // one warp at most
    for (int64_t base = begin; base < end; base += kWarp) {
      const uint64_t own = base + lane < end ? value_of(base + lane) : 0;
      uint64_t up_to = own;  // the lanes' values up to this one
      for (int lanes = 1; lanes < kWarp; lanes *= 2) {
        const uint64_t other = shuffle_u64(up_to, lane >= lanes ? lane - lanes : lane);
        if (lane >= lanes) up_to += other;
      }
      const bool reached = before + up_to > target && before + up_to - own <= target;
      if (reached) found = base + lane;
      before += shuffle_u64(up_to, kWarp - 1);
      if (before > target) break;
    }
  }
  __syncthreads();
  const int64_t id = found;
  __syncthreads();
  return id;
}

// What the filters leave: keys above `key`, and of those equal to it the ids up to `last_tie`; and
// of these, weights of at least `least` of the highest.
struct Kept {
  uint32_t key;
  int64_t last_tie;
  float least;
  __device__ bool holds(uint32_t k, int64_t id) const {
    return k > key || (k == key && id <= last_tie);
  }
};

struct Row {
  const float* logits;
  int32_t vocab;
  const uint32_t* context;  // bits of the tokens that the penalty applies to; or null
  float penalty, temperature;
  float peak = -INFINITY;  // after the penalty
  int32_t peak_id = 0;
  bool refused = false;  // NaN or +inf among the logits as given

  __device__ float logit(int64_t i) const {
    const float l = logits[i];
    if (context == nullptr || (context[i / 32] >> (i % 32) & 1u) == 0) return l;
    return fminf(l < 0 ? l * penalty : l / penalty, 3.402823466e38f);
  }
  __device__ float relative(float l) const { return expf((l - peak) / temperature); }
  __device__ uint64_t weight(float l) const {
    if (l == -INFINITY) return 0;
    return static_cast<uint64_t>(__double2ull_rn(static_cast<double>(relative(l)) * kOne));
  }
  __device__ uint64_t kept_weight(const Kept& kept, int64_t i) const {
    const float l = logit(i);
    if (l == -INFINITY || !kept.holds(key_of(l), i) || relative(l) < kept.least) return 0;
    return weight(l);
  }
  // The thread's best of ids [begin, end): key, and below it the id counted down, so that of equal
  // logits the lowest id is best; kRefused when one is NaN or +inf as given.
  static constexpr uint64_t kRefused = ~uint64_t{0};
  __device__ uint64_t best_of(int64_t begin, int64_t end) const {
    uint64_t best = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
      if (!(logits[i] <= 3.402823466e38f)) return kRefused;
      const float l = logit(i);
      const uint64_t rank = (static_cast<uint64_t>(key_of(l)) << 32) | (0xffffffffu - i);
      if (l == l && rank > best) best = rank;
    }
    return best;
  }
  // `best`: of all threads' ids.
  __device__ void take_peak(uint64_t best) {
    best = block_max_u64(best);
    refused = best == kRefused;
    peak_id = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(best));
    if (peak_id < 0 || peak_id >= vocab) peak_id = 0;
    peak = logit(peak_id);
  }
};

}  // namespace
}  // namespace limpet::ops
