// Attention of one row over its paged KV, from the ring.
//
// Keys are cut at multiples of kCut positions. Each KV head has as many blocks as the others,
// which take its cuts in runs of equal length, to within a cut: a block with two heads would go
// twice through what it waits for. A run is a part; the block that makes a head's last one
// merges all in one fixed order (Dao et al. 2023): the bits depend on the position, the row and
// the number of processors, not on who came last.
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

// Parts of a head, at most; and the words of 64 bits that parts of all heads take.
__host__ __device__ inline int most_parts(int kv_heads, int blocks) { return blocks / kv_heads; }
inline int64_t part_words(int kv_heads, int group, int head_dim, int blocks) {
  return int64_t{kv_heads} * most_parts(kv_heads, blocks) * group * (head_dim + 2);
}

#if LIMPET_GPU_PTX
static_assert(kCut / kPage == kPieces);  // a page is a piece of a slot

// Which cuts of which head are this block's; none: it has nothing to do.
struct Cuts {
  int last, first;       // positions seen
  int head, begin, end;  // the block's run of cuts, counted from position 0
  int parts, part;       // of the head, and the run's place among them

  // At least as many blocks as heads.
  __device__ __forceinline__ Cuts(int position, int window, int kv_heads)
      : last(position), first(window > 0 && position >= window ? position - window + 1 : 0) {
    const int blocks = most_parts(kv_heads, static_cast<int>(gridDim.x));
    const int cut0 = first / kCut, count = last / kCut - cut0 + 1;
    head = static_cast<int>(blockIdx.x) / blocks;
    const int index = static_cast<int>(blockIdx.x) % blocks;
    const auto share = [&](int of) {
      return static_cast<int>(static_cast<long long>(count) * of / blocks);
    };
    begin = cut0 + share(index), end = head < kv_heads ? cut0 + share(index + 1) : begin;
    parts = min(count, blocks), part = count < blocks ? begin - cut0 : index;
  }
};

// The producer's part: each lane a page of the cut, its keys and its values.
template <int Dim>
__device__ __forceinline__ void copy_cuts(Ring& ring, const Step& a, const Layer& l, int position,
                                          const int32_t* table) {
  constexpr int tile = kPage * Dim * 2;
  const Cuts cuts(position, l.window, a.kv_heads);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int cut = cuts.begin; cut < cuts.end; ++cut) {
    const int page0 = cut * (kCut / kPage);
    const int begin = max(0, cuts.first / kPage - page0);
    const int end = min(kCut / kPage, cuts.last / kPage - page0 + 1);
    const bool copies = lane >= begin && lane < end;
    const int id = copies ? table[page0 + lane] : 0;
    if (lane == 0) {
      ring.open();
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        ring.open_piece(p, p >= begin && p < end ? static_cast<uint32_t>(2 * tile) : 0);
      }
    }
    __syncwarp();
    if (copies) {
      const uint16_t* keys =
          a.pool + ops::pool_row(id, a.pool_layers, l.index, 0, a.kv_heads, cuts.head, 0, Dim);
      ring.copy(lane, lane * 2 * tile, keys, tile);
      ring.copy(lane, (lane * 2 + 1) * tile, keys + int64_t{a.kv_heads} * kPage * Dim, tile);
    }
    ring.advance();
  }
  __syncwarp();
}

// What the block keeps in shared memory.
template <int Dim, int G>
struct alignas(16) AttentionRoom {
  uint16_t q[G][Dim];             // bf16
  uint16_t key[Dim], value[Dim];  // of the row's own position
  float weights[kWarps][8][G];    // of the warp's positions of a cut
  float factors[kWarps][G];       // of what the warp had before it
  float values[kWarps][G][Dim];
  float2 tops[kWarps][G];  // highest score, in units of log 2, and sum
  bool last;               // the block made a head's last part
};

// The heads of this run, turned: a warp for each; and, where the run has the row's own position,
// its key and value.
template <int Dim, int G>
__device__ __forceinline__ void turn_heads(const Step& a, const Layer& l, int position, int kv_head,
                                           const int32_t* table, uint32_t tag, bool own,
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
      by[i] = norm == nullptr ? make_float2(1, 1) : make_float2(norm[f], norm[s]);
      turn[i] = job <= group && p < a.rotary / 2 ? make_float2(a.rope[p], a.rope[a.rotary / 2 + p])
                                                 : make_float2(1, 0);
    }
    const uint64_t* raw = a.exchange.qkv + head * Dim;
    bool there;
    do {
      there = true;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const int p = i * 32 + lane;
        const uint64_t first = ops::look_at_long(raw + pairs.first(p));
        const uint64_t second = ops::look_at_long(raw + pairs.second(p));
        x[i] = make_float2(value_of(first), value_of(second));
        there = has_tag(first, tag) && has_tag(second, tag) && there;
      }
    } while (!there);
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
        room.q[job][f] = first, room.q[job][s] = second;
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

// N floats next to each other in shared memory.
template <int N>
__device__ __forceinline__ void load_floats(const float* from, float (&to)[N]) {
  if constexpr (N == 2) {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(from + i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  }
}

// What a warp has seen of a run: 8 positions of each cut. Scores by matrix products: lane 4 g + j
// has those of head g at positions 2 j and 2 j + 1, the head's highest and a share of its sum. The
// order of a head's elements is the same for q and keys, but not theirs: a lane has 8 in a row of
// each 32 (multiply_16x8x16). Values by plain sums: Dim / 8 lanes for a position, 8 elements each.
template <int Dim, int G>
struct Seen {
  static constexpr int lanes = Dim / 8, together = 32 / lanes, passes = 8 / together;
  int warp, g, j;    // of the scores
  int chunk, place;  // of the values
  uint4 q[Dim / 32];
  float sums[G][8] = {};
  float highest = -INFINITY, total = 0;

  __device__ __forceinline__ Seen(const AttentionRoom<Dim, G>& room, int group) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, j = lane % 4;
    chunk = lane % lanes, place = lane / lanes;
#pragma unroll
    for (int c = 0; c < Dim / 32; ++c) {
      q[c] = g < group ? *reinterpret_cast<const uint4*>(room.q[g % G] + c * 32 + j * 8)
                       : make_uint4(0, 0, 0, 0);
    }
  }
  // Of head g, at positions 2 j and 2 j + 1; key: of position g, from the lane's first element on.
  __device__ __forceinline__ float2 score(const unsigned char* key) const {
    float even[4] = {}, odd[4] = {};
#pragma unroll
    for (int c = 0; c < Dim / 32; ++c) {
      const uint4 k = *reinterpret_cast<const uint4*>(key + c * 64);
      ops::multiply_16x8x16(even, q[c].x, 0, q[c].y, 0, k.x, k.y);
      ops::multiply_16x8x16(odd, q[c].z, 0, q[c].w, 0, k.z, k.w);
    }
    return make_float2(even[0] + odd[0], even[1] + odd[1]);
  }
  // One cut, whose first position is token0.
  __device__ __forceinline__ void see(const unsigned char* slot, int token0, int first, int last,
                                      float scale, AttentionRoom<Dim, G>& room) {
    constexpr int tile = kPage * Dim * 2;
    const auto row = [&](int t, int which) {
      return slot + (t / kPage * 2 + which) * tile + t % kPage * Dim * 2;
    };
    const int mine = warp * 8 + g;
    const auto* own_key = reinterpret_cast<const unsigned char*>(room.key);
    const float2 scores = score((token0 + mine == last ? own_key : row(mine, 0)) + j * 16);
    const int token = token0 + warp * 8 + 2 * j;
    const auto masked = [&](float v, int t) {
      return t < first || t > last ? -INFINITY : v * scale;
    };
    float2 weight = make_float2(masked(scores.x, token), masked(scores.y, token + 1));
    float now = fmaxf(highest, fmaxf(weight.x, weight.y));
    now = fmaxf(now, ops::shuffle_xor(now, 1)), now = fmaxf(now, ops::shuffle_xor(now, 2));
    const float level = now == -INFINITY ? 0.0f : now;
    const float factor = ops::exp2_fast(highest - level);
    weight.x = ops::exp2_fast(weight.x - level), weight.y = ops::exp2_fast(weight.y - level);
    highest = now, total = fmaf(total, factor, weight.x + weight.y);
    if (g < G) {
      room.weights[warp][2 * j][g] = weight.x, room.weights[warp][2 * j + 1][g] = weight.y;
      if (j == 0) room.factors[warp][g] = factor;
    }
    uint4 packed[passes];
    const auto* own = reinterpret_cast<const unsigned char*>(room.value);
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const int t = warp * 8 + place + p * together, seen = token0 + t;
      packed[p] = make_uint4(0, 0, 0, 0);  // what was never written may be NaN
      if (seen >= first && seen <= last) {
        packed[p] = *reinterpret_cast<const uint4*>((seen == last ? own : row(t, 1)) + chunk * 16);
      }
    }
    __syncwarp();
    float by[G];
    load_floats<G>(room.factors[warp], by);
#pragma unroll
    for (int h = 0; h < G; ++h) {
#pragma unroll
      for (int e = 0; e < 8; ++e) sums[h][e] *= by[h];
    }
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      float v[8];
      unpack(packed[p], v);
      load_floats<G>(room.weights[warp][place + p * together], by);
#pragma unroll
      for (int h = 0; h < G; ++h) {
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[h][e] = fmaf(by[h], v[e], sums[h][e]);
      }
    }
  }
  __device__ __forceinline__ void put(AttentionRoom<Dim, G>& room) {
    total += ops::shuffle_xor(total, 1), total += ops::shuffle_xor(total, 2);
    if (g < G && j == 0) room.tops[warp][g] = make_float2(highest, total);
    // Each place gets the sums of its share of the heads' elements.
    float v[G * 8];
#pragma unroll
    for (int i = 0; i < G * 8; ++i) v[i] = sums[i / 8][i % 8];
    int n = G * 8, at = 0;
#pragma unroll
    for (int width = 16; width >= lanes; width /= 2) {
      n /= 2;
      const bool upper = threadIdx.x & static_cast<unsigned>(width);
      at += upper ? n : 0;
#pragma unroll
      for (int i = 0; i < G * 4; ++i) {
        if (i >= n) continue;
        const float kept = upper ? v[i + n] : v[i], sent = upper ? v[i] : v[i + n];
        v[i] = kept + ops::shuffle_xor(sent, width);
      }
    }
#pragma unroll
    for (int i = 0; i < G * 8 / together; i += 4) {
      const int head = (at + i) / 8, element = (at + i) % 8;
      *reinterpret_cast<float4*>(&room.values[warp][head][chunk * 8 + element]) =
          make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
  }
};

// Part `part` of a KV head: values [group][Dim], then highest score and sum of each head.
template <int Dim>
struct PartPlace {
  uint64_t* values;
  int group;
  __device__ __forceinline__ PartPlace(const Step& a, int kv_head, int part)
      : group(a.heads / a.kv_heads) {
    const int most = most_parts(a.kv_heads, static_cast<int>(gridDim.x));
    values = a.exchange.parts + (int64_t{kv_head} * most + part) * group * (Dim + 2);
  }
  __device__ __forceinline__ uint64_t* top(int g) const { return values + group * Dim + 2 * g; }
};

// The warps' sums together: the head's output where it is all there is, else a part.
template <int Dim, int G>
__device__ __forceinline__ void put_part(const Step& a, const Cuts& cuts, uint32_t tag,
                                         const AttentionRoom<Dim, G>& room) {
  const PartPlace<Dim> place(a, cuts.head, cuts.part);
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
    if (cuts.parts == 1) {
      ops::send_word(a.exchange.attended + cuts.head * place.group * Dim + i,
                     tagged(ops::as_bf16(sum / total), tag));
    } else {
      give(place.values + i, sum, tag);
      if (d == 0) give(place.top(g), top, tag), give(place.top(g) + 1, total, tag);
    }
  }
}

// Two elements a thread, of one head for a warp; lane b weighs part b of a batch.
template <int Dim>
__device__ __forceinline__ void merge_parts(const Step& a, const Cuts& cuts, uint32_t tag) {
  constexpr int batch = 20;  // looked at before one is needed: all, for most heads
  const int group = a.heads / a.kv_heads, lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x); i < group * Dim / 2; i += kThreads) {
    float top = -INFINITY, total = 0;
    float2 sum = make_float2(0, 0);
    for (int p0 = 0; p0 < cuts.parts; p0 += batch) {
      const int some = min(batch, cuts.parts - p0);
      ulonglong2 weighs, values[batch];
      bool there;
      do {
        const PartPlace<Dim> one(a, cuts.head, p0 + min(lane, some - 1));
        weighs = ops::look_at_two_longs(one.top(i / (Dim / 2)));
        there = has_tag(weighs.x, tag) && has_tag(weighs.y, tag);
#pragma unroll
        for (int b = 0; b < batch; ++b) {
          const PartPlace<Dim> place(a, cuts.head, p0 + min(b, some - 1));
          values[b] = ops::look_at_two_longs(place.values + 2 * i);
          there = has_tag(values[b].x, tag) && has_tag(values[b].y, tag) && there;
        }
      } while (!there);
      __syncwarp();
      const float mine = lane < some ? value_of(weighs.x) : -INFINITY;
      const float now = fmaxf(top, ops::warp_max(mine)), old = ops::exp2_fast(top - now);
      const float weight = ops::exp2_fast(mine - now);
      top = now, sum.x *= old, sum.y *= old;
      total = fmaf(total, old, ops::warp_sum(weight * value_of(weighs.y)));
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        const float by = ops::shuffle(weight, b);
        sum.x = fmaf(by, value_of(values[b].x), sum.x);
        sum.y = fmaf(by, value_of(values[b].y), sum.y);
      }
    }
    give_two(a.exchange.attended + cuts.head * group * Dim + 2 * i, sum.x / total, sum.y / total,
             tag);
  }
}

template <int Dim, int G>
__device__ __forceinline__ void attend(Ring& ring, const Step& a, const Layer& l, int layer,
                                       int position, const int32_t* table, uint32_t tag,
                                       AttentionRoom<Dim, G>& room) {
  const Cuts cuts(position, l.window, a.kv_heads);
  if (cuts.begin == cuts.end) return;
  turn_heads(a, l, position, cuts.head, table, tag, cuts.end == cuts.last / kCut + 1, room);
  block_meets();
  Seen<Dim, G> seen(room, a.heads / a.kv_heads);
  for (int cut = cuts.begin; cut < cuts.end; ++cut) {
    seen.see(ring.take(), cut * kCut, cuts.first, cuts.last, l.scale * 1.4426950408889634f, room);
    ring.release();
  }
  seen.put(room);
  block_meets();
  put_part(a, cuts, tag, room);
  if (cuts.parts == 1) return;
  block_meets();
  if (threadIdx.x == 0) {
    const uint32_t before = ops::count_one_of(a.exchange.made + layer * a.kv_heads + cuts.head);
    room.last = before + 1 == static_cast<uint32_t>(cuts.parts);
  }
  block_meets();
  if (room.last) merge_parts<Dim>(a, cuts, tag);
}
#endif

}  // namespace
}  // namespace one_row
}  // namespace limpet
