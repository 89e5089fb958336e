// One row of x times the block's rows of a weight, from the ring.
//
// x stays in registers: warp w of a team of W has elements (s W + w) 256 + lane * 8 … + 7 for
// s < S. Each warp leaves its part of every output's sum; finish() adds them in order.
#pragma once
#include "backends/gpu/one_row/layers.h"
#include "backends/gpu/one_row/ring.cuh"
#include "ops/linear/gemv.cuh"

namespace limpet {
namespace one_row {
namespace {

#if LIMPET_GPU_PTX
// Parts of sums, [row of the block][kWarps].
struct Sums {
  float* parts;
  int of;  // parts of a row that are used
  __device__ __forceinline__ float operator[](int row) const {
    float sum = 0;
    for (int w = 0; w < of; ++w) sum += parts[row * kWarps + w];
    return sum;
  }
};

// The sums of `Rows` values over the lanes of a warp: lane l gets that of value l * Rows / 32.
template <int Rows>
__device__ __forceinline__ float sum_each(float (&v)[Rows]) {
  int width = 16;
#pragma unroll
  for (int n = Rows; n > 1; n /= 2, width /= 2) {
    const bool upper = threadIdx.x & static_cast<unsigned>(width);
#pragma unroll
    for (int i = 0; i < n / 2; ++i) {
      const float mine = upper ? v[i + n / 2] : v[i], sent = upper ? v[i] : v[i + n / 2];
      v[i] = mine + ops::shuffle_xor(sent, width);
    }
  }
#pragma unroll
  for (; width > 0; width /= 2) v[0] += ops::shuffle_xor(v[0], width);
  return v[0];
}

// Teams: 1, or 2 that take rows in turn where k is too small for all warps. Rows that a slot has at
// most when k needs this S (rows_of_slot, slots of 32 KiB): Rows at a time.
template <int S, int Teams, int Rows>
__device__ __forceinline__ void multiply_rows(Ring& ring, const uint16_t* x, int k, const Share& share,
                                              float* parts) {
  constexpr int W = kWarps / Teams;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int team = warp / W, w = warp % W, row_bytes = 2 * k;
  const int per_slot = rows_of_slot(ring.slot_bytes, k), all = 2 * (share.end - share.begin);
  uint4 xs[S];
#pragma unroll
  for (int s = 0; s < S; ++s) {
    const int at = ((s * W + w) * 32 + lane) * 8;
    xs[s] = at < k ? __ldcg(reinterpret_cast<const uint4*>(x + at)) : make_uint4(0, 0, 0, 0);
  }
  for (int row0 = 0; row0 < all; row0 += per_slot) {
    const unsigned char* slot = ring.take();
    const int some = min(per_slot, all - row0);
    for (int j = team * Rows; j < some; j += Teams * Rows) {
      float even[Rows] = {}, odd[Rows] = {};
#pragma unroll
      for (int s = 0; s < S; ++s) {
        const int at = ((s * W + w) * 32 + lane) * 16;
        if (S > 2) ops::keep_packed(xs[s]);
        if (at >= row_bytes) continue;
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
          const int row = min(j + r, some - 1);
          ops::dot_eight(*reinterpret_cast<const uint4*>(slot + row * row_bytes + at), xs[s], even[r],
                         odd[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < Rows; ++r) even[r] += odd[r];
      const float sum = sum_each<Rows>(even);
      const int row = j + lane / (32 / Rows);
      if (lane % (32 / Rows) == 0 && row < some) parts[(row0 + row) * kWarps + w] = sum;
    }
    ring.release();
  }
}

// By all threads that compute; they have met when it returns.
__device__ __forceinline__ Sums multiply(Ring& ring, const uint16_t* x, int k, const Share& share,
                                         float* parts) {
  if (k <= 1024) {
    multiply_rows<1, 2, 4>(ring, x, k, share, parts);
  } else if (k <= 2048) {
    multiply_rows<1, 1, 4>(ring, x, k, share, parts);
  } else if (k <= 4096) {
    multiply_rows<2, 1, 4>(ring, x, k, share, parts);
  } else if (k <= 8192) {
    multiply_rows<4, 1, 2>(ring, x, k, share, parts);
  } else if (k <= 14336) {
    multiply_rows<7, 1, 1>(ring, x, k, share, parts);
  } else {
    multiply_rows<10, 1, 1>(ring, x, k, share, parts);
  }
  ops::sync_some(1, kThreads);
  return {parts, k <= 1024 ? kWarps / 2 : kWarps};
}
constexpr int kMostK = 20480;

__device__ __forceinline__ float factor_of(const uint64_t* squares, int width, float eps) {
  const auto sum = static_cast<float>(__ldcg(reinterpret_cast<const unsigned long long*>(squares)));
  return rsqrtf(sum * (1.0f / ops::kSquaresUnit) * (1.0f / static_cast<float>(width)) + eps);
}

// y = sum * factor + bias
__device__ __forceinline__ void project(Ring& ring, const Step& a, const Layer& l, int i, float* parts) {
  const Share share((a.heads + 2 * a.kv_heads) * a.head_dim / 2, false);
  const int pair = share.begin + static_cast<int>(threadIdx.x);
  const bool mine = pair < share.end;
  float2 bias = make_float2(0, 0);
  if (mine && l.qkv_bias != nullptr) bias = reinterpret_cast<const float2*>(l.qkv_bias)[pair];
  const float factor = factor_of(a.squares + 2 * i * kSquaresApart, a.hidden, l.eps);
  const Sums sums = multiply(ring, a.scaled, a.hidden, share, parts);
  if (!mine) return;
  const int row = 2 * static_cast<int>(threadIdx.x);
  __stcg(reinterpret_cast<float2*>(a.raw) + pair,
         make_float2(sums[row] * factor + bias.x, sums[row + 1] * factor + bias.y));
}

// gated = bf16(silu(gate) * up)
__device__ __forceinline__ void gate(Ring& ring, const Step& a, const Layer& l, int i, float* parts) {
  const Share share(a.inner, false);
  const float factor = factor_of(a.squares + (2 * i + 1) * kSquaresApart, a.hidden, l.mlp_eps);
  const Sums sums = multiply(ring, a.scaled, a.hidden, share, parts);
  const int pair = share.begin + static_cast<int>(threadIdx.x);
  if (pair >= share.end) return;
  const int row = 2 * static_cast<int>(threadIdx.x);
  const float g = sums[row] * factor, up = sums[row + 1] * factor;
  a.gated[pair] = ops::as_bf16(g / (1.0f + __expf(-g)) * up);
}

// What becomes of the residual stream when a product has been added to it.
struct Sum {
  float* to;          // a.x or, at the end, a.result
  const float* norm;  // of what follows: scaled = bf16(x * norm), squares += x²; null: nothing does
  uint64_t* squares;
  bool last_have_more;  // of the blocks
};
__device__ __forceinline__ void add(Ring& ring, const Step& a, const uint16_t* in, int k, const Sum& sum,
                                    float* parts) {
  const Share share(a.hidden / 2, sum.last_have_more);
  const int pair = share.begin + static_cast<int>(threadIdx.x);
  const bool mine = pair < share.end;
  float2 x = make_float2(0, 0), by = make_float2(0, 0);
  if (mine) {
    x = __ldcg(reinterpret_cast<const float2*>(a.x) + pair);
    if (sum.norm != nullptr) by = reinterpret_cast<const float2*>(sum.norm)[pair];
  }
  const Sums sums = multiply(ring, in, k, share, parts);
  if (static_cast<int>(threadIdx.x) / 32 * 32 >= share.end - share.begin) return;
  float both = 0;
  if (mine) {
    const int row = 2 * static_cast<int>(threadIdx.x);
    x.x += sums[row], x.y += sums[row + 1];
    __stcg(reinterpret_cast<float2*>(sum.to) + pair, x);
    both = x.x * x.x + x.y * x.y;
    if (sum.norm != nullptr) {
      __stcg(reinterpret_cast<uint32_t*>(a.scaled) + pair, ops::pack_bf16(x.x * by.x, x.y * by.y));
    }
  }
  if (sum.norm == nullptr) return;
  both = ops::warp_sum(both);
  if (threadIdx.x % 32 == 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(sum.squares),
              static_cast<unsigned long long>(both * ops::kSquaresUnit));
  }
}
#endif

}  // namespace
}  // namespace one_row
}  // namespace limpet
