// Attention of one row over its paged KV, from the ring.
//
// Keys are cut at multiples of kCut positions; the cuts of all KV heads, head after head, are dealt
// out to the blocks in runs of equal length. A block makes one part of each head that its run
// meets; the block that makes the last one merges them in order (Dao et al. 2023): the bits depend
// on the position, the row and the number of processors, not on who came last.
//
// Each block turns the query heads that it needs itself; the one with the row's own position
// appends its key and value, too. All of it from the product's raw sums: heads are whole only
// there.
#pragma once
#include "backends/gpu/one_row/meeting.cuh"
#include "backends/gpu/one_row/ring.cuh"
#include "ops/linear/tail.cuh"

namespace limpet {
namespace one_row {
namespace {

constexpr int kCut = 64, kPage = 16;  // positions
constexpr int kMostGroup = 8;         // query heads of a KV head

// Parts of a head, at most; and the floats that parts of all heads take.
__host__ __device__ inline int most_parts(int kv_heads, int blocks) {
  return blocks / kv_heads + 2;
}
inline int64_t part_floats(int kv_heads, int group, int head_dim, int blocks) {
  return int64_t{kv_heads} * most_parts(kv_heads, blocks) * group * (head_dim + 2);
}

#if LIMPET_GPU_PTX
// Which cuts there are, and whose they are.
struct Cuts {
  int last, first;         // positions seen
  int cut0, count, items;  // the first cut, cuts of a head, cuts of all heads
  int begin, end;          // items of this block

  __device__ __forceinline__ Cuts(int position, int window, int kv_heads)
      : last(position),
        first(window > 0 && position >= window ? position - window + 1 : 0),
        cut0(first / kCut),
        count(last / kCut - cut0 + 1),
        items(kv_heads * count),
        begin(share(static_cast<int>(blockIdx.x))),
        end(share(static_cast<int>(blockIdx.x) + 1)) {}
  __device__ __forceinline__ int share(int block) const {
    return static_cast<int>(static_cast<long long>(items) * block / static_cast<int>(gridDim.x));
  }
  __device__ __forceinline__ int block_of(int item) const {
    return static_cast<int>((static_cast<long long>(item + 1) * static_cast<int>(gridDim.x) - 1) /
                            items);
  }
  // Parts of a head, and which of them is the one that begins with `item`.
  __device__ __forceinline__ int parts_of(int head) const {
    if (items < static_cast<int>(gridDim.x)) return count;
    return block_of((head + 1) * count - 1) - block_of(head * count) + 1;
  }
  __device__ __forceinline__ int part_of(int head, int item) const {
    if (items < static_cast<int>(gridDim.x)) return item - head * count;
    return static_cast<int>(blockIdx.x) - block_of(head * count);
  }
};

// The producer's part: each lane a page of the cut, its keys and its values.
template <int Dim>
__device__ __forceinline__ void copy_cuts(Ring& ring, const Step& a, const Layer& l, int position,
                                          const int32_t* table) {
  constexpr int tile = kPage * Dim * 2;
  const Cuts cuts(position, l.window, a.kv_heads);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int item = cuts.begin; item < cuts.end; ++item) {
    const int head = item / cuts.count, page0 = (cuts.cut0 + item % cuts.count) * (kCut / kPage);
    const int begin = max(0, cuts.first / kPage - page0);
    const int end = min(kCut / kPage, cuts.last / kPage - page0 + 1);
    const bool copies = lane >= begin && lane < end;
    const int id = copies ? table[page0 + lane] : 0;
    if (lane == 0) ring.open(static_cast<uint32_t>((end - begin) * 2 * tile));
    __syncwarp();
    if (copies) {
      const uint16_t* keys =
          a.pool + ops::pool_row(id, a.pool_layers, l.index, 0, a.kv_heads, head, 0, Dim);
      ring.copy(lane * 2 * tile, keys, tile);
      ring.copy((lane * 2 + 1) * tile, keys + int64_t{a.kv_heads} * kPage * Dim, tile);
    }
    ring.advance();
  }
  __syncwarp();
}

// What the block keeps in shared memory.
template <int Dim, int G>
struct AttentionRoom {
  float q[G][Dim];
  uint16_t key[Dim], value[Dim];  // of the row's own position
  float values[kWarps][G][Dim];
  float2 tops[kWarps][G];  // highest score, in units of log 2, and sum
  bool last;               // the block made a head's last part
};

// The heads of this run, turned: a warp for each; and, where the run has the row's own position,
// its key and value.
template <int Dim, int G>
__device__ __forceinline__ void turn_heads(const Step& a, const Layer& l, int position, int kv_head,
                                           const int32_t* table, bool own,
                                           AttentionRoom<Dim, G>& room) {
  constexpr int N = Dim / 64;  // pairs a lane
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int group = a.heads / a.kv_heads, jobs = group + (own ? 2 : 0);
  const ops::PairRows pairs{Dim, a.rotary};
  for (int job = warp; job < jobs; job += kWarps) {
    const int head =
        job < group ? kv_head * group + job : a.heads + kv_head + (job == group ? 0 : a.kv_heads);
    const float* norm = job < group ? l.q_norm : job == group ? l.k_norm : nullptr;
    float2 x[N], by[N], turn[N];  // by: of the norm; turn: cosine and sine
    float squares = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int p = i * 32 + lane, f = pairs.first(p), s = pairs.second(p);
      x[i] = make_float2(__ldcg(a.exchange.qkv + head * Dim + f),
                         __ldcg(a.exchange.qkv + head * Dim + s));
      by[i] = norm == nullptr ? make_float2(1, 1) : make_float2(norm[f], norm[s]);
      turn[i] = job <= group && p < a.rotary / 2 ? make_float2(a.rope[p], a.rope[a.rotary / 2 + p])
                                                 : make_float2(1, 0);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) squares += x[i].x * x[i].x + x[i].y * x[i].y;
    const float factor = norm == nullptr ? 1.0f : rsqrtf(ops::warp_sum(squares) / Dim + l.head_eps);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int p = i * 32 + lane, f = pairs.first(p), s = pairs.second(p);
      x[i].x *= factor * by[i].x, x[i].y *= factor * by[i].y;
      const uint16_t first = ops::as_bf16(x[i].x * turn[i].x - x[i].y * turn[i].y);
      const uint16_t second = ops::as_bf16(x[i].y * turn[i].x + x[i].x * turn[i].y);
      if (job < group) {
        room.q[job][f] = ops::as_float(first), room.q[job][s] = ops::as_float(second);
        continue;
      }
      uint16_t* kept = job == group ? room.key : room.value;
      uint16_t* pool =
          a.pool + ops::pool_row(table[position / kPage], a.pool_layers, l.index, job - group,
                                 a.kv_heads, kv_head, position % kPage, Dim);
      kept[f] = pool[f] = first, kept[s] = pool[s] = second;
    }
  }
}

__device__ __forceinline__ void unpack(const uint4& v, float (&to)[8]) {
  to[0] = ops::low_bf16(v.x), to[1] = ops::high_bf16(v.x), to[2] = ops::low_bf16(v.y);
  to[3] = ops::high_bf16(v.y), to[4] = ops::low_bf16(v.z), to[5] = ops::high_bf16(v.z);
  to[6] = ops::low_bf16(v.w), to[7] = ops::high_bf16(v.w);
}

// What a warp has seen of a run: 8 positions of each cut. Lanes / 8 of a head's elements in a row
// are a position's; `mine` is the head whose scores this lane keeps.
template <int Dim, int G>
struct Seen {
  static constexpr int lanes = Dim / 8, together = 32 / lanes, passes = 8 / together;
  int chunk, place, mine;
  float q[G][8], sums[G][8] = {};
  float highest = -INFINITY, total = 0;

  __device__ __forceinline__ Seen(const AttentionRoom<Dim, G>& room, int group) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    chunk = lane % lanes, place = lane / lanes, mine = chunk / (lanes / G);
#pragma unroll
    for (int g = 0; g < G; ++g) {
#pragma unroll
      for (int e = 0; e < 8; ++e) q[g][e] = g < group ? room.q[g][chunk * 8 + e] : 0.0f;
    }
  }
  // Of all lanes of a position, that which keeps head g's.
  __device__ __forceinline__ int keeper(int g) const { return place * lanes + g * (lanes / G); }
  // A position's scores, of which this lane gets its head's.
  __device__ __forceinline__ float score(const uint4& key) const {
    float k[8], v[G];
    unpack(key, k);
#pragma unroll
    for (int g = 0; g < G; ++g) {
      float even = 0, odd = 0;
#pragma unroll
      for (int e = 0; e < 8; e += 2) {
        even = fmaf(q[g][e], k[e], even), odd = fmaf(q[g][e + 1], k[e + 1], odd);
      }
      v[g] = even + odd;
    }
    int width = lanes / 2;
#pragma unroll
    for (int n = G; n > 1; n /= 2, width /= 2) {
      const bool upper = threadIdx.x & static_cast<unsigned>(width);
#pragma unroll
      for (int i = 0; i < n / 2; ++i) {
        const float kept = upper ? v[i + n / 2] : v[i], sent = upper ? v[i] : v[i + n / 2];
        v[i] = kept + ops::shuffle_xor(sent, width);
      }
    }
#pragma unroll
    for (; width > 0; width /= 2) v[0] += ops::shuffle_xor(v[0], width);
    return v[0];
  }
  // One cut, whose first position is token0.
  __device__ __forceinline__ void see(const unsigned char* slot, int token0, int first, int last,
                                      float scale, const AttentionRoom<Dim, G>& room) {
    constexpr int tile = kPage * Dim * 2;
    const int base = static_cast<int>(threadIdx.x) / 32 * 8 + place;
    const auto row = [&](int t, int which) {
      return slot + (t / kPage * 2 + which) * tile + t % kPage * Dim * 2 + chunk * 16;
    };
    float weight[passes], top = -INFINITY;
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const int t = base + p * together, token = token0 + t;
      const auto* own = reinterpret_cast<const unsigned char*>(room.key) + chunk * 16;
      const float s = score(*reinterpret_cast<const uint4*>(token == last ? own : row(t, 0)));
      weight[p] = token < first || token > last ? -INFINITY : s * scale;
      top = fmaxf(top, weight[p]);
    }
#pragma unroll
    for (int width = 16; width >= lanes; width /= 2) top = fmaxf(top, ops::shuffle_xor(top, width));
    const float now = fmaxf(highest, top), level = now == -INFINITY ? 0.0f : now;
    const float factor = ops::exp2_fast(highest - level);
    highest = now, total *= factor;
#pragma unroll
    for (int p = 0; p < passes; ++p)
      weight[p] = ops::exp2_fast(weight[p] - level), total += weight[p];
#pragma unroll
    for (int g = 0; g < G; ++g) {
      const float by = ops::shuffle(factor, keeper(g));
#pragma unroll
      for (int e = 0; e < 8; ++e) sums[g][e] *= by;
    }
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const int t = base + p * together, token = token0 + t;
      uint4 packed = make_uint4(0, 0, 0, 0);  // what was never written may be NaN
      const auto* own = reinterpret_cast<const unsigned char*>(room.value) + chunk * 16;
      if (token >= first && token <= last) {
        packed = *reinterpret_cast<const uint4*>(token == last ? own : row(t, 1));
      }
      float v[8];
      unpack(packed, v);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        const float by = ops::shuffle(weight[p], keeper(g));
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[g][e] = fmaf(by, v[e], sums[g][e]);
      }
    }
  }
  __device__ __forceinline__ void put(AttentionRoom<Dim, G>& room) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
    for (int width = 16; width >= lanes; width /= 2) {
      total += ops::shuffle_xor(total, width);
#pragma unroll
      for (int g = 0; g < G; ++g) {
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[g][e] += ops::shuffle_xor(sums[g][e], width);
      }
    }
    if (place != 0) return;
#pragma unroll
    for (int g = 0; g < G; ++g) {
#pragma unroll
      for (int e = 0; e < 8; ++e) room.values[warp][g][chunk * 8 + e] = sums[g][e];
    }
    if (chunk % (lanes / G) == 0) room.tops[warp][mine] = make_float2(highest, total);
  }
};

// Part `part` of a KV head: values [group][Dim], then highest score and sum of each head.
template <int Dim>
struct PartPlace {
  float* values;
  int group;
  __device__ __forceinline__ PartPlace(const Step& a, int kv_head, int part)
      : group(a.heads / a.kv_heads) {
    const int most = most_parts(a.kv_heads, static_cast<int>(gridDim.x));
    values = a.exchange.parts + (int64_t{kv_head} * most + part) * group * (Dim + 2);
  }
  __device__ __forceinline__ float2* top(int g) const {
    return reinterpret_cast<float2*>(values + group * Dim) + g;
  }
};

// The warps' sums together: the head's output where it is all there is, else a part.
template <int Dim, int G>
__device__ __forceinline__ void put_part(const Step& a, int kv_head, int parts, int part,
                                         const AttentionRoom<Dim, G>& room) {
  const PartPlace<Dim> place(a, kv_head, part);
  for (int i = static_cast<int>(threadIdx.x); i < place.group * Dim; i += kThreads) {
    const int g = i / Dim, d = i % Dim;
    float top = -INFINITY, total = 0, sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, room.tops[w][g].x);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float by = ops::exp2_fast(room.tops[w][g].x - top);
      total = fmaf(by, room.tops[w][g].y, total), sum = fmaf(by, room.values[w][g][d], sum);
    }
    if (parts == 1) {
      a.exchange.attended[kv_head * place.group * Dim + i] = ops::as_bf16(sum / total);
    } else {
      __stcg(place.values + i, sum);
      if (d == 0) __stcg(place.top(g), make_float2(top, total));
    }
  }
}

template <int Dim>
__device__ __forceinline__ void merge_parts(const Step& a, int kv_head, int parts) {
  constexpr int batch = 20;  // asked for before one is needed: all, for most heads
  const int group = a.heads / a.kv_heads;
  for (int i = static_cast<int>(threadIdx.x); i < group * Dim; i += kThreads) {
    float top = -INFINITY, total = 0, sum = 0;
    for (int p0 = 0; p0 < parts; p0 += batch) {
      float2 tops[batch];
      float values[batch];
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        const PartPlace<Dim> place(a, kv_head, min(p0 + b, parts - 1));
        tops[b] = __ldcg(place.top(i / Dim)), values[b] = __ldcg(place.values + i);
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        if (p0 + b >= parts) continue;
        const float now = fmaxf(top, tops[b].x), old = ops::exp2_fast(top - now);
        const float by = ops::exp2_fast(tops[b].x - now);
        top = now, total = fmaf(old, total, by * tops[b].y), sum = fmaf(old, sum, by * values[b]);
      }
    }
    a.exchange.attended[kv_head * group * Dim + i] = ops::as_bf16(sum / total);
  }
}

template <int Dim, int G>
__device__ __forceinline__ void attend(Ring& ring, const Step& a, const Layer& l, int layer,
                                       int position, const int32_t* table,
                                       AttentionRoom<Dim, G>& room) {
  const Cuts cuts(position, l.window, a.kv_heads);
  const float scale = l.scale * 1.4426950408889634f;
  for (int item = cuts.begin; item < cuts.end;) {
    const int head = item / cuts.count, from = item;
    const int end = min(cuts.end, (head + 1) * cuts.count);
    turn_heads(a, l, position, head, table, end == (head + 1) * cuts.count, room);
    block_meets();
    Seen<Dim, G> seen(room, a.heads / a.kv_heads);
    for (; item < end; ++item) {
      const int token0 = (cuts.cut0 + item - head * cuts.count) * kCut;
      seen.see(ring.take(), token0, cuts.first, cuts.last, scale, room);
      ring.release();
    }
    seen.put(room);
    block_meets();
    const int parts = cuts.parts_of(head);
    put_part(a, head, parts, cuts.part_of(head, from), room);
    block_meets();
    if (parts == 1) continue;
    if (threadIdx.x == 0) {
      const uint32_t before = ops::add_both_ways(a.exchange.made + layer * a.kv_heads + head, 1);
      room.last = before + 1 == static_cast<uint32_t>(parts);
    }
    block_meets();
    if (room.last) merge_parts<Dim>(a, head, parts);
  }
}
#endif

}  // namespace
}  // namespace one_row
}  // namespace limpet
