// Rows of q, k, v as a product left them: bias, query/key norm of each head, rotation, KV append.
//
// For prefill, and for decode steps of models with a query/key norm, whose heads are whole only
// after the product (without one, the product's own tail appends: tail.cuh). A warp for each row
// and head.
#pragma once
#include "ops/linear/tail.cuh"

namespace limpet::ops {
namespace {

template <class Element>
struct AppendRows {
  const Element* qkv;          // f32 or bf16 [rows, (heads + 2 kv_heads) * head_dim]
  const float* bias;           // [(heads + 2 kv_heads) * head_dim], or null
  const float *q_norm, *k_norm;  // [head_dim], or null
  float eps;
  TailArgs to;                 // the fields of Tail::append, rows and count
};
constexpr int kAppendPairs = 4;  // of a lane: heads of up to 256 elements

template <class Element>
__global__ void append_rows(const AppendRows<Element> a) {
  start_next();
  await_previous();
  const TailArgs& t = a.to;
  const int all = t.heads + 2 * t.kv_heads;
  const int unit = static_cast<int>((int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp);
  const int row = unit / all, head = unit % all, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (row >= t.counted()) return;
  const PairRows pairs{t.head_dim, t.rotary};
  const Element* from = a.qkv + (int64_t{row} * all + head) * t.head_dim;
  float first[kAppendPairs], second[kAppendPairs], squares = 0;
#pragma unroll
  for (int i = 0; i < kAppendPairs; ++i) {
    const int p = i * kWarp + lane;
    first[i] = second[i] = 0;
    if (p >= t.head_dim / 2) continue;
    const int f = pairs.first(p), s = pairs.second(p);
    first[i] = as_float(from[f]), second[i] = as_float(from[s]);
    if (a.bias != nullptr) {
      first[i] += a.bias[head * t.head_dim + f], second[i] += a.bias[head * t.head_dim + s];
    }
    squares += first[i] * first[i] + second[i] * second[i];
  }
  const float* norm = head < t.heads ? a.q_norm : head < t.heads + t.kv_heads ? a.k_norm : nullptr;
  const float by =
      norm == nullptr ? 1.0f
                      : rsqrtf(warp_sum(squares) / static_cast<float>(t.head_dim) + a.eps);
#pragma unroll
  for (int i = 0; i < kAppendPairs; ++i) {
    const int p = i * kWarp + lane;
    if (p >= t.head_dim / 2) continue;
    const int f = pairs.first(p), s = pairs.second(p);
    if (norm != nullptr) first[i] *= by * norm[f], second[i] *= by * norm[s];
    PairEnd<Tail::append> end;
    TailArgs plain = t;
    plain.bias = nullptr;
    end.row = row, end.first = head * t.head_dim + f, end.second = head * t.head_dim + s;
    end.there = true;
    end.load_append(plain);
    end.finish(plain, first[i], second[i], kWarp);
  }
}

template <class Element>
GpuError launch_append_rows(const AppendRows<Element>& a, int warp, const Launch& how) {
  const int64_t units = int64_t{a.to.rows} * (a.to.heads + 2 * a.to.kv_heads);
  const int per_block = 256 / warp;
  const dim3 grid(static_cast<unsigned>((units + per_block - 1) / per_block));
  return launch(append_rows<Element>, grid, 256, 1, 0, how, a);
}

}  // namespace
}  // namespace limpet::ops
