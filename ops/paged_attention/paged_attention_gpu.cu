#include "ops/paged_attention/pool.cuh"
#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

constexpr int kWarps = 4;       // of a block
constexpr int kMostDim = 256;   // of a head
constexpr int kLaneDims = kMostDim / 32;

struct Query {
  const float* q;
  float* o;
  int64_t q_stride, o_stride, rows, heads, window;
  const int32_t* positions;
  const int32_t* count;
  float scale;
};

// What one warp has seen of the keys: the highest score, and sums relative to it.
struct Seen {
  float highest = -INFINITY, sum = 0;
  float values[kLaneDims] = {};  // elements lane, lane + kWarp, … of the weighted values

  __device__ void rescale(float to) {
    const float factor = highest == -INFINITY ? 0.0f : expf(highest - to);
    sum *= factor;
#pragma unroll
    for (float& v : values) v *= factor;
    highest = to;
  }
};

template <class Element>
__device__ float score_of(const Element* key, const float* q, int64_t dim) {
  float sum = 0;
  for (int64_t i = 0; i < dim; ++i) sum += q[i] * as_float(key[i]);
  return sum;
}

// Keys [base, base + kWarp): each lane scores one, then all lanes sum the values.
template <class Element>
__device__ void see_keys(Seen& seen, const GpuPool& pool, int64_t row, int64_t kv_head,
                         const float* q, float scale, int64_t base, int64_t first, int64_t last) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t position = base + lane;
  const bool sees = position >= first && position <= last;
  const Element* key = sees ? pool.at<Element>(row, position, 0, kv_head) : nullptr;
  const float score =
      key != nullptr ? score_of(key, q, pool.head_dim) * scale : -INFINITY;
  const float highest = fmaxf(seen.highest, warp_max(score));
  if (highest == -INFINITY) return;
  seen.rescale(highest);
  const float weight = key != nullptr ? expf(score - highest) : 0.0f;
  seen.sum += warp_sum(weight);
  const int64_t end = last - base + 1 < kWarp ? last - base + 1 : kWarp;
  for (int i = first > base ? static_cast<int>(first - base) : 0; i < end; ++i) {
    const float w = shuffle(weight, i);
    const Element* value = pool.at<Element>(row, base + i, 1, kv_head);
    if (value == nullptr) continue;
#pragma unroll
    for (int d = 0; d < kLaneDims; ++d) {
      const int64_t element = lane + int64_t{d} * kWarp;
      if (element < pool.head_dim) seen.values[d] += w * as_float(value[element]);
    }
  }
}

// One block a row and head. Warp w takes the runs of kWarp positions, counted from 0, whose number
// is w modulo kWarps, in order; the warps' sums are merged in order. So the bits depend on the
// query and its sequence alone.
template <class Element>
__global__ void attend(Query a, GpuPool pool) {
  const int64_t row = blockIdx.x, head = blockIdx.y;
  if (row >= counted_rows(a.count, a.rows)) return;
  __shared__ float q[kMostDim];
  __shared__ float values[kWarps][kMostDim];
  __shared__ float highest[kWarps], sums[kWarps];
  for (int64_t i = threadIdx.x; i < pool.head_dim; i += blockDim.x) {
    q[i] = a.q[row * a.q_stride + head * pool.head_dim + i];
  }
  __syncthreads();
  const int64_t last = a.positions[row];
  const int64_t first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
  const int64_t kv_head = head / (a.heads / pool.kv_heads);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Seen seen;
  for (int64_t run = first / kWarp; run * kWarp <= last; ++run) {
    if (run % kWarps != warp) continue;
    see_keys<Element>(seen, pool, row, kv_head, q, a.scale, run * kWarp, first, last);
  }
#pragma unroll
  for (int d = 0; d < kLaneDims; ++d) {
    const int element = lane + d * kWarp;
    if (element < kMostDim) values[warp][element] = seen.values[d];
  }
  if (lane == 0) highest[warp] = seen.highest, sums[warp] = seen.sum;
  __syncthreads();
  float top = -INFINITY, total = 0;
  for (const float h : highest) top = fmaxf(top, h);
  float factor[kWarps];
  for (int w = 0; w < kWarps; ++w) {
    factor[w] = highest[w] == -INFINITY ? 0.0f : expf(highest[w] - top);
    total += sums[w] * factor[w];
  }
  for (int64_t i = threadIdx.x; i < pool.head_dim; i += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += values[w][i] * factor[w];
    a.o[row * a.o_stride + head * pool.head_dim + i] = sum / total;
  }
}

}  // namespace

void run(const PagedAttention& op, GpuContext& gpu, const Args& a) {
  const TensorView &q = a.in[0], &o = a.out[0];
  const GpuPool pool = gpu_pool(a.in[4], a.in[2], a.in[3], op.layer);
  const Query query{q.as<float>(), o.as<float>(), q.stride(),            o.stride(), o.rows(),
                    q.cols() / pool.head_dim, op.window, a.in[1].as<int32_t>(), a.count, op.scale};
  const dim3 grid(static_cast<unsigned>(o.rows()), static_cast<unsigned>(query.heads));
  const auto threads = static_cast<unsigned>(kWarps * gpu.warp);
  if (a.in[4].dtype == DType::f32) {
    attend<float><<<grid, threads, 0, gpu.stream>>>(query, pool);
  } else {
    attend<uint16_t><<<grid, threads, 0, gpu.stream>>>(query, pool);
  }
}

}  // namespace limpet::ops
