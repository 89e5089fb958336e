// What the warps of a block see of a cut (split_cuts.cuh), and how that becomes a row's output.
//
// K goes from shared memory into the fragments of tensor cores with 16-byte reads: lane j of a quad
// owns 8 elements in a row, for q and K alike, so the order of k does not matter.
#pragma once
#include "ops/paged_attention/split_parts.cuh"

namespace limpet::ops {
namespace {

#if LIMPET_GPU_PTX
template <int Dim>
struct SplitShape {
  static constexpr int chunks = Dim / 8, page_bytes = 2 * kPageTokens * Dim * 2;
  static constexpr int slots = kSplitWarps * kSplitDepth;  // of a block
  static constexpr int ring = slots * page_bytes, shared = ring + slots * 8;  // with barriers
  static constexpr int fit = 220 * 1024 / (shared + 4096);  // blocks of a processor
  static constexpr int together = fit < 1 ? 1 : fit > 4 ? 4 : fit;
  static constexpr int q_steps = (Dim + 31) / 32;
  // Byte offset of a 16-byte chunk of a token's K or V.
  static __device__ __forceinline__ int at(int token, int chunk) {
    return (token * chunks + chunk) * 16;
  }
};

// What the warps of a block have seen of a cut, in shared memory; a row of values is four elements
// longer, so that writes hit all banks.
template <int Dim>
struct BlockParts {
  float* memory;
  int heads;  // of a block of heads, at most

  __device__ __forceinline__ float* values(int warp, int head) const {
    return memory + (warp * heads + head) * (Dim + 4);
  }
  __device__ __forceinline__ float2* top(int warp, int head) const {
    return reinterpret_cast<float2*>(values(warp, head) + Dim);
  }
  static constexpr size_t bytes(int heads) { return size_t{4} * kSplitWarps * heads * (Dim + 4); }
};

// What a warp has seen of a cut: lane 4 g + j knows head g's highest score (in units of log 2) and
// its own share of the sum; sums[d] are elements 16 d + g and + 8 of heads 2 j and 2 j + 1.
template <int Dim>
struct WarpSeen {
  using Shape = SplitShape<Dim>;
  float highest = -INFINITY, total = 0, sums[Dim / 16][4] = {};

  // N pages, from token0 on.
  template <int N>
  __device__ __forceinline__ void see(unsigned char* const (&pages)[N], const uint4* q, float scale,
                                      int token0, int first, int last) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, j = lane % 4;
    float s[N][2][4] = {};
#pragma unroll
    for (int c = 0; c < Shape::q_steps; ++c) {
#pragma unroll
      for (int i = 0; i < 2 * N; ++i) {
        uint4 k = make_uint4(0, 0, 0, 0);
        if (Dim % 32 == 0 || c * 4 + j < Shape::chunks) {
          k = *reinterpret_cast<const uint4*>(pages[i / 2] +
                                              Shape::at(i % 2 * 8 + g, c * 4 + j));
        }
        multiply_16x8x16(s[i / 2][i % 2], q[c].x, 0, q[c].y, 0, k.x, k.y);
        multiply_16x8x16(s[i / 2][i % 2], q[c].z, 0, q[c].w, 0, k.z, k.w);
      }
    }
    if (token0 + N * kPageTokens - 1 > last || token0 < first) {
#pragma unroll
      for (int i = 0; i < 4 * N; ++i) {
        const int token = token0 + i / 2 * 8 + 2 * j + i % 2;
        if (token > last || token < first) s[i / 4][i / 2 % 2][i % 2] = -INFINITY;
      }
#pragma unroll
      for (int p = 0; p < N; ++p) clear_values(pages[p], last - token0 - p * kPageTokens);
    }
    float top = -INFINITY;
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) top = fmaxf(top, s[i / 4][i / 2 % 2][i % 2]);
    top *= scale;
    top = fmaxf(top, shuffle_xor(top, 1));
    top = fmaxf(top, shuffle_xor(top, 2));
    const float now = fmaxf(highest, top), factor = exp2_fast(highest - now);
    highest = now;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) {
      float& weight = s[i / 4][i / 2 % 2][i % 2];
      weight = exp2_fast(fmaf(weight, scale, -now));
      sum += weight;
    }
    total = total * factor + sum;
    const float even = shuffle(factor, 8 * j), odd = shuffle(factor, 8 * j + 4);
#pragma unroll
    for (int d = 0; d < Dim / 16; ++d) {
      sums[d][0] *= even, sums[d][1] *= odd, sums[d][2] *= even, sums[d][3] *= odd;
    }
#pragma unroll
    for (int p = 0; p < N; ++p) {
      const uint32_t weights0 = pack_bf16(s[p][0][0], s[p][0][1]);
      const uint32_t weights1 = pack_bf16(s[p][1][0], s[p][1][1]);
      multiply_values(pages[p] + Shape::page_bytes / 2, weights0, weights1);
    }
  }
  // Eight tokens' rows begin at the same bank, or at few. So where the chunks of a row come by
  // fours, a matrix has of tokens 2 j and 2 j + 1 chunk c ^ j instead of c, and lanes put their
  // registers in order.
  __device__ __forceinline__ void multiply_values(const unsigned char* values, uint32_t weights0,
                                                  uint32_t weights1) {
    const int lane = static_cast<int>(threadIdx.x) % 32, j = lane % 4;
    if constexpr (Shape::chunks % 4 == 0) {
      const int token = lane % 8, of = lane / 8 ^ token / 2;
#pragma unroll
      for (int c = 0; c < Shape::chunks; c += 4) {
        const uint4 low = in_order(load_matrices_transposed(values + Shape::at(token, c + of)), j);
        const uint4 high =
            in_order(load_matrices_transposed(values + Shape::at(token + 8, c + of)), j);
        multiply_16x8x16(sums[c / 2], low.x, low.y, high.x, high.y, weights0, weights1);
        multiply_16x8x16(sums[c / 2 + 1], low.z, low.w, high.z, high.w, weights0, weights1);
      }
    } else {
      const int token = lane % 8 + lane / 16 * 8, chunk = lane / 8 % 2;
#pragma unroll
      for (int d = 0; d < Dim / 16; ++d) {
        const uint4 v = load_matrices_transposed(values + Shape::at(token, 2 * d + chunk));
        multiply_16x8x16(sums[d], v.x, v.y, v.z, v.w, weights0, weights1);
      }
    }
  }
  // Element i of the result is element i ^ j.
  static __device__ __forceinline__ uint4 in_order(const uint4& v, int j) {
    const bool odd = (j & 1) != 0, upper = (j & 2) != 0;
    const uint32_t x = odd ? v.y : v.x, y = odd ? v.x : v.y;
    const uint32_t z = odd ? v.w : v.z, w = odd ? v.z : v.w;
    return make_uint4(upper ? z : x, upper ? w : y, upper ? x : z, upper ? y : w);
  }
  // Values after token `most` of a page: what was never written may be NaN.
  static __device__ __forceinline__ void clear_values(unsigned char* page, int most) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    auto* values = reinterpret_cast<uint4*>(page + Shape::page_bytes / 2);
    for (int i = (most + 1) * Shape::chunks + lane; i < kPageTokens * Shape::chunks; i += 32) {
      values[i] = make_uint4(0, 0, 0, 0);
    }
    order_before_copies();
    __syncwarp();
  }
  // For the block.
  __device__ __forceinline__ void put(const BlockParts<Dim>& parts, int heads) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, j = lane % 4;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    total += shuffle_xor(total, 1);
    total += shuffle_xor(total, 2);
    if (j == 0 && g < heads) *parts.top(warp, g) = make_float2(highest, total);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (2 * j + e >= heads) continue;
      float* to = parts.values(warp, 2 * j + e) + g;
#pragma unroll
      for (int d = 0; d < Dim / 16; ++d) {
        to[d * 16] = sums[d][e], to[d * 16 + 8] = sums[d][2 + e];
      }
    }
  }
};

// The warps' sums of a cut as the row's output, or as a part of it; by the block.
template <int Dim>
__device__ __forceinline__ void put_cut(const PagedRows& a, const SplitSpace& space,
                                        const BlockParts<Dim>& parts, const Cut& cut) {
  const PartPlace<Dim> place(space, cut.unit, cut.part);
  uint16_t* out = a.out + (int64_t{cut.row} * a.heads + cut.head) * Dim;
  for (int i = static_cast<int>(threadIdx.x); i < cut.heads * Dim / 4; i += kSplitWarps * 32) {
    const int head = i / (Dim / 4), at = i % (Dim / 4);
    Merged all;
#pragma unroll
    for (int w = 0; w < kSplitWarps; ++w) {
      const float2 top = *parts.top(w, head);
      all.add(top.x, top.y, reinterpret_cast<const float4*>(parts.values(w, head))[at]);
    }
    if (cut.parts == 1) {
      all.write(out + i * 4);
    } else {
      place.put(i, all.sum);
      if (at == 0) place.put_top(head, all.top, all.total);
    }
  }
}
#endif

}  // namespace
}  // namespace limpet::ops
