// Parts of a row that blocks of attention of decode rows (split.cuh) give each other, and how the
// block that comes last merges them.
//
// No part waits until its writes have arrived: a word that has not come yet is kAwaited, and who
// merges looks again until none is. Who has read a part puts kAwaited back; so all the memory of a
// SplitSpace is 0xff before the first launch, and after each. A block announces its part before
// it writes it, and waits in between for its own copies alone: so the last one that announces waits
// for others, but never for one that waits for it.
#pragma once
#include "ops/paged_attention/merge.cuh"
#include "ops/paged_attention/split_cuts.cuh"

namespace limpet::ops {
namespace {

constexpr uint32_t kAwaited = 0xffffffffu;  // no result of arithmetic, whose NaN is 0x7fffffff

struct SplitSpace {  // of rows and their blocks of heads (units)
  uint32_t* parts;   // [units][most]: kSplitHeads heads' elements, then their tops and totals
  uint32_t* counts;  // [units]: parts that were announced, from kAwaited on
  int most;          // parts of a row, split_parts_of()
};
// Of these numbers of rows, heads, KV heads and pages.
inline size_t split_units(const PagedRows& a) {
  return size_t{1} * a.rows * head_blocks(a.heads, a.kv_heads);
}
inline size_t split_parts_words(const PagedRows& a, int head_dim) {
  return split_units(a) * split_parts_of(a.max_pages) * kSplitHeads * (head_dim + 2);
}
inline size_t split_space_bytes(const PagedRows& a, int head_dim) {
  return 4 * (split_parts_words(a, head_dim) + split_units(a));
}
// In so many bytes, from a multiple of 16 on.
inline SplitSpace split_space(void* memory, const PagedRows& a, int head_dim) {
  auto* words = static_cast<uint32_t*>(memory);
  return {words, words + split_parts_words(a, head_dim), split_parts_of(a.max_pages)};
}

#if LIMPET_GPU_PTX
// Where a part of a row and block of heads lies.
template <int Dim>
struct PartPlace {
  uint32_t* words;

  __device__ __forceinline__ PartPlace(const SplitSpace& space, int unit, int part)
      : words(space.parts + (int64_t{unit} * space.most + part) * kSplitHeads * (Dim + 2)) {}
  __device__ __forceinline__ uint32_t* four(int i) const { return words + i * 4; }
  __device__ __forceinline__ uint32_t* top(int head) const {
    return words + kSplitHeads * Dim + head * 2;
  }
  static __device__ __forceinline__ uint32_t word_of(float v) {  // never kAwaited
    const uint32_t word = __float_as_uint(v);
    return word == kAwaited ? 0x7fffffffu : word;
  }
  // Elements 4 i … 4 i + 3 of the block of heads.
  __device__ __forceinline__ void put(int i, const float4& v) const {
    send_four_words(four(i),
                    make_uint4(word_of(v.x), word_of(v.y), word_of(v.z), word_of(v.w)));
  }
  __device__ __forceinline__ void put_top(int head, float highest, float total) const {
    send_two_words(top(head), word_of(highest), word_of(total));
  }
};

// Announces a part of the unit; how many were before it. By one thread. The answer takes a while:
// use it late.
__device__ __forceinline__ uint32_t announce_part(const SplitSpace& space, int unit) {
  return count_one_of(space.counts + unit) - kAwaited;
}

// Elements of a head from its parts, Batch of them at a time, in their order.
template <int Dim, int Batch>
__device__ __forceinline__ Merged merge_parts_of(const SplitSpace& space, const Cut& cut, int i) {
  const int head = i / (Dim / 4);
  Merged all;
#pragma unroll 1
  for (int p0 = 0; p0 < cut.parts; p0 += Batch) {
    uint4 values[Batch];
    uint2 tops[Batch];
    bool awaited;
    do {
      awaited = false;
#pragma unroll
      for (int b = 0; b < Batch; ++b) {
        const PartPlace<Dim> place(space, cut.unit, min(p0 + b, cut.parts - 1));
        values[b] = look_at_four_words(place.four(i)), tops[b] = look_at_two_words(place.top(head));
      }
#pragma unroll
      for (int b = 0; b < Batch; ++b) {
        const uint4& v = values[b];
        awaited = awaited || v.x == kAwaited || v.y == kAwaited || v.z == kAwaited ||
                  v.w == kAwaited || tops[b].x == kAwaited || tops[b].y == kAwaited;
      }
    } while (awaited);
    float now = all.top;
#pragma unroll
    for (int b = 0; b < Batch; ++b) now = fmaxf(now, __uint_as_float(tops[b].x));
    all.turn_to(now);
#pragma unroll
    for (int b = 0; b < Batch; ++b) {
      if (p0 + b >= cut.parts) break;
      const uint4& v = values[b];
      all.add_below(__uint_as_float(tops[b].x), __uint_as_float(tops[b].y),
                    make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                                __uint_as_float(v.w)));
      send_four_words(PartPlace<Dim>(space, cut.unit, p0 + b).four(i),
                      make_uint4(kAwaited, kAwaited, kAwaited, kAwaited));
    }
  }
  return all;
}
// The row's output for the cut's heads; by all of the block that announced the last part.
template <int Dim>
__device__ __forceinline__ void merge_parts(const PagedRows& a, const SplitSpace& space,
                                            const Cut& cut) {
  constexpr int kBatch = Dim == 96 || Dim == 128 ? 16 : Dim <= 64 ? 4 : 8;  // as registers allow
  const int thread = static_cast<int>(threadIdx.x);
  uint16_t* out = a.out + (int64_t{cut.row} * a.heads + cut.head) * Dim;
  for (int i = thread; i < cut.heads * Dim / 4; i += kSplitWarps * 32) {
    merge_parts_of<Dim, kBatch>(space, cut, i).write(out + i * 4);
  }
  // All have read the tops; and no warp announces the block's next part while others still wait.
  __syncthreads();
  for (int i = thread; i < cut.parts * cut.heads; i += kSplitWarps * 32) {
    const PartPlace<Dim> place(space, cut.unit, i / cut.heads);
    send_two_words(place.top(i % cut.heads), kAwaited, kAwaited);
  }
  if (thread == 0) send_word(space.counts + cut.unit, kAwaited);
}
#endif

}  // namespace
}  // namespace limpet::ops
