// Draws of rows of logits: the op's kernels, and a way in for whole decoders, whose head has found
// each row's likeliest token while it wrote the logits.
//
// One block draws one row. Every sum is of integers, so that neither the number of threads nor the
// order of their sums changes a draw.
#pragma once
#include "ops/sample/philox.h"
#include "ops/sample/row.cuh"

namespace limpet::ops {
namespace {

// The operands of sample.h.
struct DrawRows {
  const float* logits;  // rows `stride` elements apart
  int64_t stride;
  int32_t vocab;
  const DrawSpec* draws;
  uint32_t* context;  // [slots, ceil(vocab / 32)]
  int64_t slots;
  DrawnToken* drawn;
  int64_t rows;
  const int32_t* count;  // true rows, on the device; null: all
};
// Of each row `each` ranks as Row::best_of gives them, the highest of which is the row's; rows
// `stride` apart. With `unpenalized` they are of the logits as given: who has a penalty looks anew.
struct Bests {
  const uint64_t* ranks;
  int each;
  int64_t stride;
  bool unpenalized;
};

// The 2^kBits - 1 thresholds of a pass cut the keys that are left into as many ranges.
constexpr int kBits = 3, kCuts = (1 << kBits) - 1;
// Blocks that look for a row's best, and their threads.
constexpr int kParts = 32, kPartThreads = 256;

enum class By : int { count, weight };

__device__ uint64_t measure(const Row& row, By by, float logit) {
  return by == By::count ? 1u : row.weight(logit);
}

// The likeliest of `kept` that together measure `target`, no more of them than needed.
__device__ Kept narrow(const Row& row, Kept kept, By by, uint64_t target) {
  uint32_t lowest = 0;  // all that is kept with keys from here on measures at least `target`
  for (int shift = 32 - 32 % kBits; shift >= 0; shift -= kBits) {
    uint64_t sums[kCuts] = {};
    for (int64_t i = threadIdx.x; i < row.vocab; i += blockDim.x) {
      const float logit = row.logit(i);
      const uint32_t key = key_of(logit);
      if (key < lowest || !kept.holds(key, i)) continue;
      const uint64_t m = measure(row, by, logit);
#pragma unroll
      for (int c = 0; c < kCuts; ++c) {
        const uint64_t cut = lowest + (static_cast<uint64_t>(c + 1) << shift);
        if (key >= cut) sums[c] += m;
      }
    }
    int next = 0;
    for (int c = 0; c < kCuts; ++c) {
      const bool fits = lowest + (static_cast<uint64_t>(c + 1) << shift) <= 0xffffffffu;
      if (block_sum_u64(sums[c]) >= target && fits) next = c + 1;
    }
    lowest += static_cast<uint32_t>(next) << shift;
  }
  // Of those that have just this key, the first in order of id, as many as are still needed.
  uint64_t above = 0, each = 0, ties = 0;
  for (int64_t i = threadIdx.x; i < row.vocab; i += blockDim.x) {
    const float logit = row.logit(i);
    const uint32_t key = key_of(logit);
    if (key < lowest || !kept.holds(key, i)) continue;
    const uint64_t m = measure(row, by, logit);
    if (key > lowest) {
      above += m;
    } else {
      ++ties;
      each = m;
    }
  }
  above = block_sum_u64(above);
  ties = block_sum_u64(ties);
  each = block_max_u64(each);
  const uint64_t left = target > above ? target - above : 0;
  const uint64_t wanted = each == 0 ? ties : (left + each - 1) / each;
  // What an earlier filter has cut off of the same key stays cut off.
  Kept now{lowest, lowest == kept.key ? kept.last_tie : row.vocab, kept.least};
  if (wanted < ties) {
    now.last_tie = find_in_order(
        row.vocab, wanted == 0 ? 0 : wanted - 1, [&](int64_t i) -> uint64_t {
          const uint32_t key = key_of(row.logit(i));
          return key == lowest && kept.holds(key, i) ? 1u : 0u;
        });
  }
  return now;
}

__device__ int32_t draw_row(const Row& row, const DrawSpec& o) {
  if (o.temperature == 0.0f) return row.peak_id;
  Kept kept{0, static_cast<int64_t>(row.vocab), 0.0f};
  if (o.top_k > 0 && o.top_k < row.vocab) {
    kept = narrow(row, kept, By::count, static_cast<uint64_t>(o.top_k));
  }
  const auto total = [&] {
    uint64_t sum = 0;
    for (int64_t i = threadIdx.x; i < row.vocab; i += blockDim.x) sum += row.kept_weight(kept, i);
    return block_sum_u64(sum);
  };
  if (o.top_p < 1.0f) {
    const double mass = static_cast<double>(o.top_p) * static_cast<double>(total());
    kept = narrow(row, kept, By::weight, static_cast<uint64_t>(ceil(mass)));
  }
  kept.least = o.min_p;
  const double u = philox_uniform(o.seed, o.position);
  const auto target = static_cast<uint64_t>(u * static_cast<double>(total()));
  const int64_t id = find_in_order(row.vocab, target,
                                   [&](int64_t i) { return row.kept_weight(kept, i); });
  return id < row.vocab ? static_cast<int32_t>(id) : row.peak_id;
}

// Log-probabilities of the logits as given: the drawn token's and the likeliest ones'.
__device__ void tell(Row row, const DrawSpec& o, DrawnToken& out) {
  row.context = nullptr;
  row.temperature = 1.0f;
  row.take_peak(row.best_of(0, row.vocab));
  uint64_t sum = 0;
  for (int64_t i = threadIdx.x; i < row.vocab; i += blockDim.x) sum += row.weight(row.logit(i));
  const double log_sum = log(static_cast<double>(block_sum_u64(sum)) / kOne);
  const auto logprob = [&](float l) {
    return static_cast<float>(static_cast<double>(l) - row.peak - log_sum);
  };
  const int32_t wanted = o.logprobs < kMostLogprobs ? o.logprobs : kMostLogprobs;
  uint64_t before = ~uint64_t{0};
  int32_t told = 0;
  for (; told < wanted; ++told) {
    uint64_t best = 0;  // key, and below it the id counted down: the lower of equals is higher
    for (int64_t i = threadIdx.x; i < row.vocab; i += blockDim.x) {
      const float l = row.logit(i);
      if (l == -INFINITY) continue;
      const uint64_t rank = (static_cast<uint64_t>(key_of(l)) << 32) | (0xffffffffu - i);
      if (rank < before && rank > best) best = rank;
    }
    best = block_max_u64(best);
    if (best == 0) break;
    before = best;
    if (threadIdx.x != 0) continue;
    out.top[told].token = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(best));
    out.top[told].logprob = logprob(row.logit(out.top[told].token));
  }
  out.told = told;
  out.logprob = logprob(row.logit(out.token));
}

__device__ Row row_of(const DrawRows& a, int64_t r) {
  const DrawSpec& o = a.draws[r];
  const bool penalized = o.context >= 0 && o.context < a.slots;
  const int64_t words = (a.vocab + 31) / 32;
  return {a.logits + r * a.stride, a.vocab, penalized ? a.context + o.context * words : nullptr,
          o.penalty, o.temperature};
}

// The best of each part of each row, so that a greedy draw waits for many blocks' reading.
__global__ void __launch_bounds__(kPartThreads) find_bests(const DrawRows a, uint64_t* bests) {
  __shared__ uint64_t warps[kMostWarps];
  const int64_t r = blockIdx.x;
  if (r >= counted_rows(a.count, a.rows) || a.draws[r].draws == 0) return;
  const Row row = row_of(a, r);
  const int64_t part = (a.vocab + kParts - 1) / kParts, begin = blockIdx.y * part;
  uint64_t best = row.best_of(begin, begin + part < a.vocab ? begin + part : a.vocab);
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const uint64_t other = shuffle_xor_u64(best, lanes);
    best = other > best ? other : best;
  }
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kPartThreads / kWarp; ++w) best = warps[w] > best ? warps[w] : best;
  bests[r * kParts + blockIdx.y] = best;
}

__global__ void __launch_bounds__(kRowThreads) sample_rows(const DrawRows a, const Bests bests) {
  const int64_t r = blockIdx.x;
  if (r >= counted_rows(a.count, a.rows)) return;
  const DrawSpec o = a.draws[r];
  if (o.draws == 0) {
    if (threadIdx.x == 0) a.drawn[r] = DrawnToken{};
    return;
  }
  Row row = row_of(a, r);
  const int thread = static_cast<int>(threadIdx.x);
  const bool known = row.context == nullptr || !bests.unpenalized;
  row.take_peak(!known              ? row.best_of(0, a.vocab)
                : thread < bests.each ? bests.ranks[r * bests.stride + thread]
                                      : 0);
  DrawnToken out;
  out.status = row.refused ? DrawStatus::not_finite
               : row.peak == -INFINITY ? DrawStatus::nothing : DrawStatus::drawn;
  if (out.status == DrawStatus::drawn) {
    out.token = draw_row(row, o);
    if (o.logprobs >= 0) tell(row, o, out);
  }
  if (thread != 0) return;
  if (row.context != nullptr && out.status == DrawStatus::drawn) {
    a.context[o.context * int64_t{(a.vocab + 31) / 32} + out.token / 32] |= 1u << (out.token % 32);
  }
  a.drawn[r] = out;
}

// With the logits' own bests, which whoever wrote them has found.
inline GpuError launch_draws(const DrawRows& a, const Bests& bests, GpuStream stream) {
  sample_rows<<<static_cast<unsigned>(a.rows), kRowThreads, 0, stream>>>(a, bests);
  return LIMPET_GPU(GetLastError)();
}
// ranks: room for kParts * rows.
inline GpuError launch_draws(const DrawRows& a, uint64_t* ranks, GpuStream stream) {
  const auto rows = static_cast<unsigned>(a.rows);
  find_bests<<<dim3(rows, kParts), kPartThreads, 0, stream>>>(a, ranks);
  if (const GpuError error = LIMPET_GPU(GetLastError)(); error != GpuError{}) return error;
  return launch_draws(a, Bests{ranks, kParts, kParts, false}, stream);
}

}  // namespace
}  // namespace limpet::ops
