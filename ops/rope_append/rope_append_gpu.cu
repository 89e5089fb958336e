#include "ops/paged_attention/pool.cuh"
#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

struct Rows {
  const float *q, *k, *v, *table;
  int64_t q_stride, k_stride, v_stride, table_stride;
  const int32_t* positions;
  float* out;
  int64_t out_stride, rows, heads, rotary;
  const int32_t* count;
};

// Elements i and i + rotary / 2 of a head, or two that are left as they are; pair < head_dim / 2.
struct Pair {
  int64_t first, second;
  float cosine, sine;

  __device__ Pair(int64_t pair, int64_t rotary, const float* table) {
    const int64_t half = rotary / 2;
    const bool turns = pair < half;
    first = turns ? pair : rotary + 2 * (pair - half);
    second = turns ? pair + half : first + 1;
    cosine = turns ? table[pair] : 1.0f;
    sine = turns ? table[half + pair] : 0.0f;
  }
  __device__ void rotate(const float* from, float& a, float& b) const {
    a = from[first] * cosine - from[second] * sine;
    b = from[second] * cosine + from[first] * sine;
  }
};

template <class Element>
__global__ void rope_append_rows(Rows a, GpuPool pool) {
  const int64_t r = blockIdx.x;
  if (r >= counted_rows(a.count, a.rows)) return;
  const int64_t pairs = pool.head_dim / 2, position = a.positions[r];
  const int64_t all = (a.heads + 2 * pool.kv_heads) * pairs;
  for (int64_t i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; i < all;
       i += int64_t{gridDim.y} * blockDim.x) {
    int64_t head = i / pairs;
    const Pair pair(i % pairs, a.rotary, a.table + r * a.table_stride);
    float first, second;
    if (head < a.heads) {
      pair.rotate(a.q + r * a.q_stride + head * pool.head_dim, first, second);
      float* to = a.out + r * a.out_stride + head * pool.head_dim;
      to[pair.first] = first;
      to[pair.second] = second;
      continue;
    }
    head -= a.heads;
    const int64_t which = head >= pool.kv_heads ? 1 : 0;
    head -= which * pool.kv_heads;
    if (which == 0) {
      pair.rotate(a.k + r * a.k_stride + head * pool.head_dim, first, second);
    } else {
      const float* from = a.v + r * a.v_stride + head * pool.head_dim;
      first = from[pair.first];
      second = from[pair.second];
    }
    Element* to = pool.at<Element>(r, position, which, head);
    if (to == nullptr) continue;
    store(first, to + pair.first);
    store(second, to + pair.second);
  }
}

}  // namespace

void run(const RopeAppend& op, GpuContext& gpu, const Args& a) {
  const TensorView &q = a.in[0], &k = a.in[1], &v = a.in[2], &table = a.in[3], &out = a.out[0];
  const GpuPool pool = gpu_pool(a.in[7], a.in[5], a.in[6], op.layer);
  const Rows rows{q.as<float>(),   k.as<float>(),  v.as<float>(),  table.as<float>(),
                  q.stride(),      k.stride(),     v.stride(),     table.stride(),
                  a.in[4].as<int32_t>(), out.as<float>(), out.stride(), out.rows(),
                  q.cols() / pool.head_dim, table.cols(), a.count};
  const int64_t all = (rows.heads + 2 * pool.kv_heads) * pool.head_dim / 2;
  const dim3 grid(static_cast<unsigned>(out.rows()), static_cast<unsigned>((all + 511) / 512));
  if (a.in[7].dtype == DType::f32) {
    rope_append_rows<float><<<grid, 256, 0, gpu.stream>>>(rows, pool);
  } else {
    rope_append_rows<uint16_t><<<grid, 256, 0, gpu.stream>>>(rows, pool);
  }
}

}  // namespace limpet::ops
