// One row of x times the block's rows of a weight, from the ring.
//
// x stays in registers: warp w of a team of W has elements (s W + w) 256 + lane * 8 … + 7 for
// s < S. Each warp leaves its part of every output's sum; Sums adds them.
#pragma once
#include "backends/gpu/one_row/meeting.cuh"
#include "backends/gpu/one_row/ring.cuh"
#include "ops/linear/gemv.cuh"

namespace limpet {
namespace one_row {
namespace {

#if LIMPET_GPU_PTX
// Parts of sums, [row of the block][kWarps]; zeros where a warp has none.
struct Sums {
  const float* parts;
  __device__ __forceinline__ float operator[](int row) const {
    const auto* four = reinterpret_cast<const float4*>(parts + row * kWarps);
    const float4 a = four[0], b = four[1];
    return ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
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

// What a product multiplies by: bf16 values with a tag.
struct Given {
  const uint32_t* x;
  uint32_t tag;
};

// Teams: 1, or 2 that take rows in turn where k is too small for all warps. Rows at a time: as many
// as a slot has at least when k needs this S (rows_of_slot, slots of 32 KiB).
template <int S, int Teams, int Rows>
__device__ __forceinline__ void multiply_rows(Ring& ring, const Given& in, int k,
                                              const Share& share, float* parts) {
  constexpr int W = kWarps / Teams;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int team = warp / W, w = warp % W, row_bytes = 2 * k;
  const int per_slot = rows_of_slot(ring.slot_bytes, k), all = 2 * (share.end - share.begin);
  uint4 xs[S];
  bool there;
  do {
    there = true;
#pragma unroll
    for (int s = 0; s < S; ++s) {
      const int at = ((s * W + w) * 32 + lane) * 8;
      xs[s] = make_uint4(0, 0, 0, 0);
      if (at < k) there = look_at_eight(in.x + at, in.tag, xs[s]) && there;
    }
  } while (!there);
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
          ops::dot_eight(*reinterpret_cast<const uint4*>(slot + row * row_bytes + at), xs[s],
                         even[r], odd[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < Rows; ++r) even[r] += odd[r];
      const float sum = sum_each<Rows>(even);
      const int row = j + lane / (32 / Rows);
      if (lane % (32 / Rows) != 0 || row >= some) continue;
      float* to = parts + (row0 + row) * kWarps + w;
      *to = sum;
      if (Teams == 2) to[W] = 0;
    }
    ring.release();
  }
}

// By all threads that compute; they have met when it returns.
__device__ __forceinline__ Sums multiply(Ring& ring, const Given& in, int k, const Share& share,
                                         float* parts) {
  if (k <= 1024) {
    multiply_rows<1, 2, 8>(ring, in, k, share, parts);
  } else if (k <= 2048) {
    multiply_rows<1, 1, 8>(ring, in, k, share, parts);
  } else if (k <= 4096) {
    multiply_rows<2, 1, 4>(ring, in, k, share, parts);
  } else if (k <= 8192) {
    multiply_rows<4, 1, 2>(ring, in, k, share, parts);
  } else if (k <= 14336) {
    multiply_rows<7, 1, 1>(ring, in, k, share, parts);
  } else {
    multiply_rows<10, 1, 1>(ring, in, k, share, parts);
  }
  block_meets();
  return {parts};
}
constexpr int kMostK = 20480;

// 1 / rms of x, of which each block has summed a part of the squares. Asked for before a product,
// needed after it; by whole warps.
constexpr int kMostBlocks = 160;
struct Factor {
  const uint64_t* squares;
  uint32_t tag;
  uint64_t parts[kMostBlocks / 32];
  __device__ __forceinline__ Factor(const uint64_t* from, uint32_t t) : squares(from), tag(t) {
    look();
  }
  __device__ __forceinline__ void look() {
#pragma unroll
    for (int i = 0; i < kMostBlocks / 32; ++i) {
      const int block = i * 32 + static_cast<int>(threadIdx.x) % 32;
      parts[i] = block < static_cast<int>(gridDim.x) ? ops::look_at_long(squares + block)
                                                     : uint64_t{tag} << 32;
    }
  }
  __device__ __forceinline__ bool there() const {
    bool all = true;
#pragma unroll
    for (int i = 0; i < kMostBlocks / 32; ++i) all = all && has_tag(parts[i], tag);
    return all;
  }
  __device__ __forceinline__ float get(int width, float eps) {
    while (!there()) look();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kMostBlocks / 32; ++i) sum += value_of(parts[i]);
    return rsqrtf(ops::warp_sum(sum) * (1.0f / static_cast<float>(width)) + eps);
  }
};
// Whether this thread's warp has one of the block's pairs.
__device__ __forceinline__ bool warp_has_pairs(const Share& share) {
  return static_cast<int>(threadIdx.x) / 32 * 32 < share.end - share.begin;
}

// q, k, v = sum * factor + bias. x: the tag of what it is made from.
__device__ __forceinline__ void project(Ring& ring, const Step& a, const Layer& l, uint32_t x,
                                        uint32_t tag, float* parts) {
  const Share share((a.heads + 2 * a.kv_heads) * a.head_dim / 2, true);
  const int pair = share.begin + static_cast<int>(threadIdx.x);
  const bool mine = pair < share.end;
  float2 bias = make_float2(0, 0);
  if (mine && l.qkv_bias != nullptr) bias = reinterpret_cast<const float2*>(l.qkv_bias)[pair];
  Factor asked(a.exchange.squares, x);
  const Sums sums = multiply(ring, {a.exchange.normed, x}, a.hidden, share, parts);
  if (!warp_has_pairs(share)) return;
  const float factor = asked.get(a.hidden, l.eps);
  if (!mine) return;
  const int row = 2 * static_cast<int>(threadIdx.x);
  give(a.exchange.qkv + 2 * pair, sums[row] * factor + bias.x, tag);
  give(a.exchange.qkv + 2 * pair + 1, sums[row + 1] * factor + bias.y, tag);
}

// gated = bf16(silu(gate) * up)
__device__ __forceinline__ void gate(Ring& ring, const Step& a, const Layer& l, uint32_t x,
                                     uint32_t tag, float* parts) {
  const Share share(a.inner, true);
  Factor asked(a.exchange.squares, x);
  const Sums sums = multiply(ring, {a.exchange.normed, x}, a.hidden, share, parts);
  if (!warp_has_pairs(share)) return;
  const float factor = asked.get(a.hidden, l.mlp_eps);
  const int pair = share.begin + static_cast<int>(threadIdx.x);
  if (pair >= share.end) return;
  const int row = 2 * static_cast<int>(threadIdx.x);
  const float g = sums[row] * factor, up = sums[row + 1] * factor;
  ops::send_word(a.exchange.gated + pair,
                 tagged(ops::as_bf16(g / (1.0f + __expf(-g)) * up), tag));
}

// The residual stream: it stays with the first warp, a pair of elements a lane.
struct Residual {
  Share share;
  int pair;
  bool mine;
  float2 x = make_float2(0, 0), norm = make_float2(0, 0);

  __device__ __forceinline__ explicit Residual(const Step& a)
      : share(a.hidden / 2, false),
        pair(share.begin + static_cast<int>(threadIdx.x)),
        mine(pair < share.end) {}
  __device__ __forceinline__ void embed(const Step& a) {
    if (!mine) return;
    const auto* row = reinterpret_cast<const uint32_t*>(a.table + a.token_ids[0] * a.table_stride);
    x = make_float2(ops::low_bf16(row[pair]), ops::high_bf16(row[pair]));
  }
  // x += in · weightᵀ, and for what follows bf16(x * norm) and a part of the sum of squares; a norm
  // of null: nothing follows.
  __device__ __forceinline__ void add(Ring& ring, const Step& a, const Given& in, int k,
                                      const float* following, uint32_t tag, float* parts) {
    take_norm(following);
    const Sums sums = multiply(ring, in, k, share, parts);
    if (mine) {
      const int row = 2 * static_cast<int>(threadIdx.x);
      x.x += sums[row], x.y += sums[row + 1];
    }
    if (following != nullptr) give(a, tag);
  }
  __device__ __forceinline__ void take_norm(const float* following) {
    if (mine && following != nullptr) norm = reinterpret_cast<const float2*>(following)[pair];
  }
  __device__ __forceinline__ void give(const Step& a, uint32_t tag) const {
    if (threadIdx.x >= 32) return;
    const float squares = ops::warp_sum(mine ? x.x * x.x + x.y * x.y : 0.0f);
    if (threadIdx.x == 0) one_row::give(a.exchange.squares + blockIdx.x, squares, tag);
    if (mine) give_two(a.exchange.normed + 2 * pair, x.x * norm.x, x.y * norm.y, tag);
  }
  __device__ __forceinline__ void finish(const Step& a) const {
    if (mine) reinterpret_cast<float2*>(a.result)[pair] = x;
  }
};

// The small operands of a layer, some lines of each to the second-level cache by each block.
__device__ __forceinline__ void prefetch_norms(const Step& a, const Layer& l) {
  const auto bring = [&](const float* from, int n) {
    if (from == nullptr) return;
    const int line =
        (static_cast<int>(threadIdx.x) - (kThreads - 32)) * static_cast<int>(gridDim.x) +
        static_cast<int>(blockIdx.x);
    if (line * 32 < n) ops::prefetch(from + line * 32);
  };
  if (threadIdx.x < kThreads - 32) return;
  bring(l.norm, a.hidden), bring(l.mlp_norm, a.hidden);
  bring(l.q_norm, a.head_dim), bring(l.k_norm, a.head_dim);
  bring(l.qkv_bias, (a.heads + 2 * a.kv_heads) * a.head_dim);
}
#endif

}  // namespace
}  // namespace one_row
}  // namespace limpet
