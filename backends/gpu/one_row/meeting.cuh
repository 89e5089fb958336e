// Where the blocks of a launch wait for each other, and the form of what they give each other.
//
// A write and a counter that tells of it go their own ways: to order them, who writes would have
// to wait until the write has arrived, behind the 48 or 64 KB that are on their way to its
// processor: 0.8 us each time. So each value carries a tag, the number of the phase that made it,
// in the same word; who reads looks again until all tags are right. A meeting only makes it
// likely that they are, and keeps a phase from overwriting what another block may still read: a
// block comes to it when it has seen the tags of all that it uses of the phase, in its registers.
// So tags are looked at before the next meeting. (No memory model orders a read before another
// block's later write by relaxed counters; that a value has arrived does.)
//
// All of this memory is zero before the launch; no tag is.
#pragma once
#include "backends/gpu/one_row/layers.h"
#include "backends/gpu/one_row/ring.cuh"

namespace limpet {
namespace one_row {
namespace {

#if LIMPET_GPU_PTX
// The threads of the block that compute.
__device__ __forceinline__ void block_meets() { ops::sync_some(1, kThreads); }

// All blocks, again and again; by all threads that compute.
struct Meetings {
  uint32_t* arrived;
  uint32_t target = 0;
  __device__ __forceinline__ void meet() {
    block_meets();
    target += gridDim.x;
    if (threadIdx.x == 0) {
      ops::count_one(arrived);
      while (ops::look_at_word(arrived) < target) {
      }
    }
    block_meets();
  }
};

// bf16 values: the tag in the upper half of a word.
__device__ __forceinline__ uint32_t tagged(uint16_t v, uint32_t tag) { return tag << 16 | v; }
__device__ __forceinline__ void give_two(uint32_t* to, float a, float b, uint32_t tag) {
  const uint32_t two = ops::pack_bf16(a, b);
  ops::send_two_words(to, tag << 16 | (two & 0xffffu), tag << 16 | two >> 16);
}
// Eight next to each other; whether they are those meant.
__device__ __forceinline__ bool look_at_eight(const uint32_t* at, uint32_t tag, uint4& packed) {
  const uint4 a = ops::look_at_four_words(at), b = ops::look_at_four_words(at + 4);
  packed = make_uint4(__byte_perm(a.x, a.y, 0x5410), __byte_perm(a.z, a.w, 0x5410),
                      __byte_perm(b.x, b.y, 0x5410), __byte_perm(b.z, b.w, 0x5410));
  const uint32_t is = tag << 16;
  const uint32_t other = (a.x ^ is) | (a.y ^ is) | (a.z ^ is) | (a.w ^ is) | (b.x ^ is) |
                         (b.y ^ is) | (b.z ^ is) | (b.w ^ is);
  return other < 0x10000u;
}

// Floats: the tag in the upper half of 64 bits.
__device__ __forceinline__ void give(uint64_t* to, float v, uint32_t tag) {
  ops::send_long(to, uint64_t{tag} << 32 | __float_as_uint(v));
}
__device__ __forceinline__ bool has_tag(uint64_t v, uint32_t tag) {
  return static_cast<uint32_t>(v >> 32) == tag;
}
__device__ __forceinline__ float value_of(uint64_t v) {
  return __uint_as_float(static_cast<uint32_t>(v));
}
#endif

}  // namespace
}  // namespace one_row
}  // namespace limpet
