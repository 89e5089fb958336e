// Instructions that the compiler has no name for, each behind one wrapper, and launches with
// overlap and clusters (gpu.h). No other file of ops/ contains assembly.
//
// Early start: a kernel launched with Start::early may begin while its predecessor still runs,
// once every block of that one has called start_next() or ended. Before await_previous() it may
// read only what no kernel of the same captured program writes: weights, tables, positions, and KV
// of positions that earlier steps appended. Every kernel of such a chain calls await_previous(), so
// completion is transitive along it and buffers can be used again. The first kernel of a captured
// program is launched with Start::plain.
//
// What a kernel asks for meanwhile is paced: about kBytesAhead are on their way to a processor at
// once. They keep memory busy; with whole rings on their way the last reads of the kernel before,
// and this one's first of what it waits for, would come microseconds later.
//
// Without PTX there is no early start and no cluster: the waits are empty, copies are plain.
#pragma once
#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

// Warp-group matrix products, which belong to one generation of chips.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LIMPET_GPU_WGMMA 1
#else
#define LIMPET_GPU_WGMMA 0
#endif

constexpr int kBytesAhead = 64 * 1024;

__device__ __forceinline__ float low_bf16(uint32_t v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float high_bf16(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }

#if LIMPET_GPU_PTX
// Two floats to bf16, nearest even; the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// Keeps the compiler from unpacking a loop-invariant vector early (twice the registers, spills).
__device__ __forceinline__ void keep_packed(uint4& v) {
  asm volatile("" : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w));
}
// Never written while the process runs, so the read-only path is legal before await_previous().
__device__ __forceinline__ uint4 load_weights(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
// Written by a kernel before, which may still run when this one starts: never the read-only path.
__device__ __forceinline__ uint4 load_fresh(const void* p) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ void await_previous() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ __forceinline__ void start_next() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void copy_async(void* shared, const void* global) {  // 16 bytes
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}
__device__ __forceinline__ void copy_async_or_zero(void* shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(there ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// All but the latest N groups that this thread committed have landed.
template <int N>
__device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Barriers in shared memory that count bytes, and the copy engine.
__device__ __forceinline__ void init_barrier(uint64_t* b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count)
               : "memory");
}
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void expect_bytes(uint64_t* b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void await_barrier(uint64_t* b, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nW: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra D;\n"
      "bra W;\nD:\n}" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}
// The same by the 32-bit address of shared memory (shared_address), which loops compute once.
__device__ __forceinline__ void init_barrier(uint32_t b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(count) : "memory");
}
__device__ __forceinline__ void arrive(uint32_t b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory");
}
__device__ __forceinline__ void expect_bytes(uint32_t b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void await_barrier(uint32_t b, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nW: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra D;\n"
      "bra W;\nD:\n}" ::"r"(b),
      "r"(parity)
      : "memory");
}
// One arrival once all copies of 16 bytes that this thread asked for have landed.
__device__ __forceinline__ void arrive_when_copied(uint64_t* b) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(b))
               : "memory");
}
// Four barriers next to each other, of one parity.
__device__ __forceinline__ void await_four(uint64_t* b, int parity) {
  asm volatile(
      "{\n.reg .pred p, q, r, s;\n"
      "W: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 q, [%0 + 8], %1;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 r, [%0 + 16], %1;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 s, [%0 + 24], %1;\n"
      "and.pred p, p, q;\nand.pred r, r, s;\nand.pred p, p, r;\n@p bra D;\nbra W;\nD:\n}" ::"r"(
          shared_address(b)),
      "r"(parity)
      : "memory");
}
// bytes: a multiple of 16; both addresses too.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, uint32_t bytes,
                                          uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
      :
      : "r"(shared_address(shared)), "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
// The same for bytes that are read once: the second-level cache gives them up first.
__device__ __forceinline__ void copy_bulk_once(void* shared, const void* global, uint32_t bytes,
                                               uint64_t* barrier) {
  asm volatile(
      "{\n.reg .b64 once;\ncreatepolicy.fractional.L2::evict_first.b64 once, 1.0;\n"
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], once;\n}" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
// Plain writes of this thread to shared memory come before bulk copies that are asked for later.
__device__ __forceinline__ void order_before_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// `threads` threads of the block meet at one of its 16 barriers; 0 is __syncthreads()'s.
__device__ __forceinline__ void sync_some(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive_some(int barrier, int threads) {  // without waiting
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// What blocks of one launch give each other: words of 32 or 64 bits that are written and read as
// one, past the first-level cache. Nothing is ordered by them, so that nobody waits until a write
// has arrived: who reads must be able to tell from the word itself that it is the one meant.
__device__ __forceinline__ void send_word(uint32_t* to, uint32_t v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(v) : "memory");
}
__device__ __forceinline__ void send_two_words(uint32_t* to, uint32_t a, uint32_t b) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(a), "r"(b) : "memory");
}
__device__ __forceinline__ void send_four_words(uint32_t* to, const uint4& v) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ void send_long(uint64_t* to, uint64_t v) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(v) : "memory");
}
__device__ __forceinline__ uint4 look_at_four_words(const uint32_t* at) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at)
               : "memory");
  return v;
}
__device__ __forceinline__ uint2 look_at_two_words(const uint32_t* at) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(at)
               : "memory");
  return v;
}
__device__ __forceinline__ uint64_t look_at_long(const uint64_t* at) {
  uint64_t v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(at) : "memory");
  return v;
}
__device__ __forceinline__ ulonglong2 look_at_two_longs(const uint64_t* at) {
  ulonglong2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0,%1}, [%2];"
               : "=l"(v.x), "=l"(v.y)
               : "l"(at)
               : "memory");
  return v;
}
__device__ __forceinline__ uint32_t look_at_word(const uint32_t* at) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
  return v;
}
// Counters.
__device__ __forceinline__ void count_one(uint32_t* at) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(at) : "memory");
}
__device__ __forceinline__ uint32_t count_one_of(uint32_t* at) {  // the sum before
  uint32_t before;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(at) : "memory");
  return before;
}
__device__ __forceinline__ void prefetch(const void* at) {  // its line, to the second-level cache
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

// Blocks of one cluster: this thread has come so far, and, then, all their threads have. No write
// is ordered by it but those of barriers before publish_barriers(), and no fence is waited for.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}
// Where block `rank` of this cluster has what this one has at `local`: addresses of shared memory,
// of the block's own and of the cluster's.
__device__ __forceinline__ uint32_t address_in_block(uint32_t local, int rank) {
  uint32_t a;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(a) : "r"(local), "r"(rank));
  return a;
}
__device__ __forceinline__ void arrive_in_cluster(uint32_t b) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(b) : "memory");
}
// Two floats to another block's shared memory, 8-byte aligned; its barrier there counts 8 bytes.
__device__ __forceinline__ void send_two(uint32_t to, float a, float b, uint32_t barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, "
               "[%3];" ::"r"(to), "f"(a), "f"(b), "r"(barrier)
               : "memory");
}
// Shared memory to another block's; bytes and addresses: multiples of 16. The block stays until it
// has been read.
__device__ __forceinline__ void send_bulk(uint32_t to, uint32_t from, uint32_t bytes,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
      ::"r"(to), "r"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
// await_barrier for what other blocks of the cluster send, or arrive for.
__device__ __forceinline__ void await_sent(uint32_t b, int parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
      "@p bra D;\nbra W;\nD:\n}" ::"r"(b),
      "r"(parity)
      : "memory");
}

// d (16 × 8, f32) += a (16 × 16, bf16, rows of k) · b (16 × 8, bf16, columns of k). Lane 4 g + j
// holds d rows g and g + 8, columns 2 j and 2 j + 1; a0/a2 row g, a1/a3 row g + 8, k 2 j (+ 8).
__device__ __forceinline__ void multiply_16x8x16(float (&d)[4], uint32_t a0, uint32_t a1,
                                                 uint32_t a2, uint32_t a3, uint32_t b0,
                                                 uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// Four 8 × 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ uint4 load_matrices(const void* row) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(shared_address(row)));
  return v;
}
__device__ __forceinline__ uint4 load_matrices_transposed(const void* row) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(shared_address(row)));
  return v;
}
__device__ __forceinline__ float exp2_fast(float v) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}
#else
__device__ inline void await_previous() {}
__device__ inline void start_next() {}
__device__ inline void keep_packed(uint4&) {}
// Past the caches: a weight is read once a step.
__device__ inline uint4 load_weights(const void* p) {
  return load_once(static_cast<const uint4*>(p));
}
__device__ inline uint4 load_fresh(const void* p) { return *static_cast<const uint4*>(p); }
__device__ inline uint32_t pack_bf16(float low, float high) {
  return as_bf16(low) | static_cast<uint32_t>(as_bf16(high)) << 16;
}
#endif

enum class Start { plain, early };

// Launches with a cluster of `cluster` blocks along x, and with `shared` bytes of shared memory.
struct Launch {
  GpuStream stream{};
  Start start = Start::early;
  int warp = 32;  // lanes of the device's warps
};
template <class... P, class... A>
GpuError launch(void (*kernel)(P...), dim3 grid, int threads, int cluster, size_t shared,
                const Launch& how, A... args) {
  return gpu_launch(kernel,
                    {grid, static_cast<unsigned>(threads), static_cast<unsigned>(cluster), shared,
                     how.start == Start::early},
                    how.stream, P(args)...);
}

}  // namespace
}  // namespace limpet::ops
