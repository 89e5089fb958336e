// 2 … 64 rows of x times a weight on tensor cores, with the fused ends of tail.cuh.
//
// The weight is the tall operand (64 rows a group of four warps), the rows of x the narrow one, so
// a weight is read once and padding costs nothing that matters. A block streams one tile of weight
// rows over its part of k through a ring of shared memory; the blocks of a cluster share k and add
// their sums through each other's shared memory, in order, so bits do not depend on timing. A tile
// holds whole pairs: its upper half are their first rows, its lower half their second ones.
//
// Needs warp-group products (gpu_warpgroup.cuh), k a multiple of 64, clusters.
#pragma once
#include "ops/gpu_warpgroup.cuh"
#include "ops/linear/gemv.cuh"

namespace limpet::ops {
namespace {

#if LIMPET_GPU_PTX
struct SkinnyCut {
  int groups = 2;   // of four warps, 64 weight rows each: 1 or 2
  int split = 4;    // blocks that share k: 1, 2, 4, 8
};

// Groups warpgroups, Columns rows of x (8, 16, 32, 64), Depth stages of 64 elements of k.
template <int Groups, int Columns, int Depth>
struct SkinnyShape {
  static constexpr int threads = Groups * 128, rows = Groups * 64;
  static constexpr int weight_bytes = rows * 128, stage = weight_bytes + Columns * 128;
  static constexpr int pitch = rows + 4;  // of a column of sums, in floats
  static constexpr int ring = Depth * stage, sums = Columns * pitch * 4;
  static constexpr int shared = (ring > sums ? ring : sums) + 1024;  // to align it
  static constexpr int weight_copies = rows * 8 / threads;           // 16 bytes each, a thread
  static constexpr int column_copies = (Columns * 8 + threads - 1) / threads;
};

// Copies of one thread: chunk threadIdx.x % 8 of some rows of the tile and of x.
template <class Shape, int Columns>
struct SkinnyCopies {
  const uint16_t* weight[Shape::weight_copies];
  const uint16_t* x[Shape::column_copies];
  int row, chunk;

  __device__ __forceinline__ SkinnyCopies(const Gemv& g, const ProductInput& in, int pair0,
                                          int last_row, int k0) {
    row = static_cast<int>(threadIdx.x) / 8, chunk = static_cast<int>(threadIdx.x) % 8;
#pragma unroll
    for (int i = 0; i < Shape::weight_copies; ++i) {
      const int r = row + i * (Shape::threads / 8), p = pair0 + r % (Shape::rows / 2);
      const int output = r < Shape::rows / 2 ? g.pairs.first(p) : g.pairs.second(p);
      weight[i] = g.weight + min(output, g.n - 1) * g.stride + k0 + chunk * 8;
    }
#pragma unroll
    for (int i = 0; i < Shape::column_copies; ++i) {
      const int r = min(row + i * (Shape::threads / 8), last_row);
      x[i] = in.x + r * in.x_stride + k0 + chunk * 8;
    }
  }
  __device__ __forceinline__ void copy_weight(unsigned char* stage, int step) const {
#pragma unroll
    for (int i = 0; i < Shape::weight_copies; ++i) {
      copy_async(stage + swizzled(row + i * (Shape::threads / 8), chunk), weight[i] + step * 64);
    }
  }
  __device__ __forceinline__ void copy_x(unsigned char* stage, int step) const {
#pragma unroll
    for (int i = 0; i < Shape::column_copies; ++i) {
      const int r = row + i * (Shape::threads / 8);
      if (Columns % (Shape::threads / 8) == 0 || r < Columns) {
        copy_async(stage + Shape::weight_bytes + swizzled(r, chunk), x[i] + step * 64);
      }
    }
  }
};

#if LIMPET_GPU_WGMMA
// The ring: products of this block's part of k, `steps` stages of it.
template <class Shape, int Columns, int Depth>
__device__ __forceinline__ void multiply_ring(const SkinnyCopies<Shape, Columns>& copies,
                                              unsigned char* ring, int steps,
                                              float (&sums)[Columns / 8][4]) {
  const int group = static_cast<int>(threadIdx.x) / 128;
  for (int i = 0; i < steps; ++i) {
    await_copies<Depth - 2>();
    publish_to_products();
    await_products<0>();  // of the stage that is filled again below
    __syncthreads();
    const unsigned char* stage = ring + i % Depth * Shape::stage;
    const uint64_t a = tile_descriptor(stage + group * 8192);
    const uint64_t b = tile_descriptor(stage + Shape::weight_bytes);
    begin_products();
#pragma unroll
    for (int k = 0; k < 4; ++k) multiply_async(sums, a + 2 * k, b + 2 * k);
    commit_products();
    const int next = i + Depth - 1;
    if (next < steps) {
      unsigned char* to = ring + next % Depth * Shape::stage;
      copies.copy_weight(to, next);
      copies.copy_x(to, next);
    }
    commit_copies();
  }
  await_products<0>();
  await_copies<0>();
}
#endif

// Tails of this block's share of the tile's pairs: `parts` blocks hold parts of the sums.
template <Tail T, class Shape, int Columns>
struct SkinnyEnds {
  static constexpr int batch = 4;
  int pairs, share, rows;  // pairs of the block, the first of them in the tile, true rows
  PairEnd<T> ends[batch];

  __device__ __forceinline__ void load(const Gemv& g, const ProductInput& in, const TailArgs& t,
                                       int pair0, int base) {
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      const int item = base + j * Shape::threads + static_cast<int>(threadIdx.x);
      const int row = item / pairs, p = pair0 + share + item % pairs;
      ends[j].load(in, t, g.n, row, g.pairs.first(p), g.pairs.second(p), row < rows);
    }
  }
  __device__ __forceinline__ void finish(const TailArgs& t, const float* sums, int parts,
                                         int base) {
    const int segment = pairs < 32 ? pairs : 32;
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      const int item = base + j * Shape::threads + static_cast<int>(threadIdx.x);
      if (base + j * Shape::threads >= rows * pairs) break;
      const float* at = sums + item / pairs * Shape::pitch + share + item % pairs;
      float first = 0, second = 0;
      if (item < rows * pairs) {
        for (int part = 0; part < parts; ++part) {
          first += parts == 1 ? at[0] : load_of_block(at, part);
          second += parts == 1 ? at[Shape::rows / 2] : load_of_block(at + Shape::rows / 2, part);
        }
      }
      ends[j].finish(t, first, second, segment);
    }
  }
};

template <Tail T, int Groups, int Columns, int Depth>
__global__ void __launch_bounds__(Groups * 128, Groups == 2 ? 2 : 3)
    skinny(const Gemv g, const ProductInput in, const TailArgs t) {
#if LIMPET_GPU_WGMMA
  using Shape = SkinnyShape<Groups, Columns, Depth>;
  extern __shared__ unsigned char unaligned[];
  unsigned char* ring = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  const int parts = gridDim.x, part = blockIdx.x, pair0 = blockIdx.y * (Shape::rows / 2);
  const int stages = g.k / 64, begin = stages * part / parts;
  const int steps = stages * (part + 1) / parts - begin;
  const SkinnyCopies<Shape, Columns> copies(g, in, pair0, t.rows - 1, begin * 64);
  for (int i = 0; i < Depth - 1 && i < steps; ++i) copies.copy_weight(ring + i * Shape::stage, i);
  start_next();
  await_previous();
  for (int i = 0; i < Depth - 1; ++i) {
    if (i < steps) copies.copy_x(ring + i * Shape::stage, i);
    commit_copies();  // the first group has the weights above, too
  }
  float products[Columns / 8][4] = {};
  multiply_ring<Shape, Columns, Depth>(copies, ring, steps, products);
  SkinnyEnds<T, Shape, Columns> ends;
  ends.pairs = Shape::rows / 2 / parts, ends.share = ends.pairs * part, ends.rows = t.counted();
  ends.load(g, in, t, pair0, 0);
  __syncthreads();
  auto* sums = reinterpret_cast<float*>(ring);  // [Columns][pitch], over the ring
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int at = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
  for (int c = 0; c < Columns / 8; ++c) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      sums[(c * 8 + lane % 4 * 2 + e % 2) * Shape::pitch + at + e / 2 * 8] = products[c][e];
    }
  }
  if (parts > 1) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  constexpr int together = SkinnyEnds<T, Shape, Columns>::batch * Shape::threads;
  for (int base = 0; base < ends.rows * ends.pairs; base += together) {
    if (base > 0) ends.load(g, in, t, pair0, base);
    ends.finish(t, sums, parts, base);
  }
  if (parts > 1) cluster_sync();  // others still read this block's sums
#endif
}

inline SkinnyCut choose_skinny(int n, int k, int processors) {
  SkinnyCut cut;
  cut.groups = n / 128 >= processors / 4 ? 2 : 1;
  cut.split = 1;
  const int tiles = (n + cut.groups * 64 - 1) / (cut.groups * 64);
  const int want = processors * (cut.groups == 2 ? 2 : 3);
  while (cut.split < 8 && tiles * cut.split * 2 <= want && k / 64 / (cut.split * 2) >= 4) {
    cut.split *= 2;
  }
  return cut;
}

template <Tail T, int Groups, int Columns>
GpuError launch_skinny_shape(const Gemv& g, const ProductInput& in, const TailArgs& t, int split,
                             const Launch& how) {
  constexpr int stage = SkinnyShape<Groups, Columns, 2>::stage;
  constexpr int room = (Groups == 2 ? 112 : 74) * 1024;
  constexpr int depth = room / stage < 8 ? room / stage : 8;
  using Shape = SkinnyShape<Groups, Columns, depth>;
  const dim3 grid(static_cast<unsigned>(split),
                  static_cast<unsigned>((g.n + Shape::rows - 1) / Shape::rows));
  return launch(skinny<T, Groups, Columns, depth>, grid, Shape::threads, split, Shape::shared, how,
                g, in, t);
}

// t.rows: 1 … 64.
template <Tail T>
GpuError launch_skinny(const Gemv& g, const ProductInput& in, const TailArgs& t, SkinnyCut cut,
                       const Launch& how) {
  const int columns = t.rows <= 8 ? 0 : t.rows <= 16 ? 1 : t.rows <= 32 ? 2 : 3;
  if (cut.groups == 2) {
    const auto go = columns == 0   ? launch_skinny_shape<T, 2, 8>
                    : columns == 1 ? launch_skinny_shape<T, 2, 16>
                    : columns == 2 ? launch_skinny_shape<T, 2, 32>
                                   : launch_skinny_shape<T, 2, 64>;
    return go(g, in, t, cut.split, how);
  }
  const auto go = columns == 0   ? launch_skinny_shape<T, 1, 8>
                  : columns == 1 ? launch_skinny_shape<T, 1, 16>
                  : columns == 2 ? launch_skinny_shape<T, 1, 32>
                                 : launch_skinny_shape<T, 1, 64>;
  return go(g, in, t, cut.split, how);
}
#endif

}  // namespace
}  // namespace limpet::ops
