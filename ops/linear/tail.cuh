// What happens to a product's outputs before they leave the chip, for the one-row and the few-row
// kernels (gemv.cuh, skinny.cuh): the fused ends of a decode step.
//
// Outputs are finished in pairs, because rotation and gating need two at once: pair p of a weight
// [n, k] is its rows first(p) and second(p).
//
// RMSNorm costs no pass of its own. Whoever writes the residual stream also writes bf16(x * weight
// of the norm that follows) and adds the row's sum of squares, in fixed point, so that the sum does
// not depend on the order of the blocks; the product that reads it multiplies its sums by
// 1 / sqrt(mean + eps). The sums must be zero before the step (embed_rows clears them).
#pragma once
#include "ops/gpu_isa.cuh"

namespace limpet::ops {
namespace {

// Sums of squares count in units of 2^-28: rows of up to 6e10, exact to 4e-9 a part.
constexpr float kSquaresUnit = 268435456.0f;
// What many blocks add to lies a cache line apart, row from row, or they would queue at one line:
// 64-bit numbers from one row's sum, or best, to the next one's.
constexpr int kRowSlots = 16;

struct ProductInput {
  const uint16_t* x;        // bf16 [rows, k], rows x_stride apart (a multiple of 8)
  int64_t x_stride;
  const uint64_t* squares;  // [rows * kRowSlots]: x lacks its factor 1 / rms; null: it is complete
  float mean;               // 1 / width of the norm
  float eps;

  __device__ __forceinline__ float factor(int row) const {
    if (squares == nullptr) return 1.0f;
    const volatile uint64_t* at = squares + row * kRowSlots;
    const auto sum = static_cast<float>(*at);
    return rsqrtf(sum * (1.0f / kSquaresUnit) * mean + eps);
  }
};

enum class Tail {
  store,     // y = sum + bias
  residual,  // y += sum + bias; scaled = bf16(y * norm), squares += y²
  gate,      // scaled[p] = bf16(silu(first) * second); weight rows alternate gate, up
  append,    // q = rotated; k rotated and v into the pool's pages
  best,      // best = max of best_key; y, too, unless null
};

struct TailArgs {
  int rows = 1;                        // of the shapes
  const int32_t* count = nullptr;      // true rows, on the device; null: all
  const float* bias = nullptr;         // [n]
  float* y = nullptr;                  // f32 [rows, n], rows y_stride apart
  int64_t y_stride = 0;
  uint16_t* scaled = nullptr;          // bf16 [rows, n] (gate: [rows, n / 2]); residual: or null
  int64_t scaled_stride = 0;
  const float* norm = nullptr;         // [n]
  uint64_t* squares = nullptr;         // [rows * kRowSlots]
  unsigned long long* best = nullptr;  // [rows * kRowSlots], 0 before
  // append: the product is q, k, v, one below the other
  int heads = 0, kv_heads = 0, head_dim = 2, rotary = 2, layer = 0, layers = 0, max_pages = 0;
  const float* rope = nullptr;         // [rows, rope_stride]: rotary / 2 cosines, then sines
  int64_t rope_stride = 0;
  uint16_t* q = nullptr;               // bf16 [rows, heads * head_dim]
  uint16_t* pool = nullptr;            // bf16 [pages, layers, 2, kv_heads, 16, head_dim]
  const int32_t *positions = nullptr, *row_sequence = nullptr, *page_table = nullptr;

  __device__ __forceinline__ int counted() const {
    return static_cast<int>(counted_rows(count, rows));
  }
};

// Which rows of the weight make pair p: (i, i + rotary / 2) within a head, then the rest by twos.
// With the defaults head_dim = rotary = 2: rows 2 p and 2 p + 1.
struct PairRows {
  int head_dim = 2, rotary = 2;

  __device__ __forceinline__ int first(int p) const {
    const int i = p % (head_dim / 2), base = p / (head_dim / 2) * head_dim;
    return base + (i < rotary / 2 ? i : 2 * i);
  }
  __device__ __forceinline__ int second(int p) const {
    const int i = p % (head_dim / 2), base = p / (head_dim / 2) * head_dim;
    return base + (i < rotary / 2 ? i + rotary / 2 : 2 * i + 1);
  }
  // Of a row of the weight: 2 p if it is first(p), 2 p + 1 if second(p). In the same head.
  __device__ __forceinline__ int place(int row) const {
    const int i = row % head_dim, base = row - i;
    return base + (i >= rotary ? i : i < rotary / 2 ? 2 * i : 2 * i - rotary + 1);
  }
};
inline PairRows pairs_of(Tail tail, const TailArgs& t) {
  return tail == Tail::append ? PairRows{t.head_dim, t.rotary} : PairRows{};
}

constexpr int kPageTokens = 16;
__device__ __forceinline__ int64_t pool_row(int page, int layers, int layer, int which,
                                            int kv_heads, int kv_head, int token, int head_dim) {
  const int64_t slice = ((int64_t{page} * layers + layer) * 2 + which) * kv_heads + kv_head;
  return (slice * kPageTokens + token) * head_dim;
}

// A larger key is a larger logit or, of equal ones, the lower output; the largest of all is one
// that is NaN or +inf: what ops/sample/row.cuh has as a rank.
__device__ __forceinline__ unsigned long long best_key(float logit, int output) {
  if (!(logit <= 3.402823466e38f)) return ~0ull;
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // both zeros are one
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | ~static_cast<uint32_t>(output);
}

// One pair of one row. load() reads what the tail needs besides the sums, so that it can be done
// for several pairs, and while the sums are still under way; finish() must be called by all lanes
// of a warp (`there` false: nothing to do), `segment` of which, aligned, belong to the same row.
template <Tail T>
struct PairEnd {
  int row = 0, first = 0, second = 0;
  bool there = false, twice = true;  // twice: the second output exists
  float factor = 1, a = 0, b = 0, c = 0, d = 0;
  uint16_t* to = nullptr;

  // by: the row's factor (ProductInput)
  __device__ __forceinline__ void load(float by, const TailArgs& t, int n, int r, int f, int s,
                                       bool valid) {
    row = r, first = f, second = s, there = valid && f < n, twice = s < n;
    c = d = 0;  // it may have served another pair before
    if (!there) return;
    if (!twice) second = first;
    factor = by;
    if (T != Tail::append && T != Tail::gate && t.bias != nullptr) {
      c = t.bias[first], d = t.bias[second];
    }
    if constexpr (T == Tail::residual) {
      const float* x = t.y + row * t.y_stride;
      c += x[first], d += x[second];
      if (t.scaled != nullptr) a = t.norm[first], b = t.norm[second];
    }
    if constexpr (T == Tail::append) load_append(t);
  }
  __device__ __forceinline__ void load_append(const TailArgs& t) {
    if (t.bias != nullptr) c = t.bias[first], d = t.bias[second];
    int head = first / t.head_dim;
    const int i = first % t.head_dim;
    const bool turns = head < t.heads + t.kv_heads && i < t.rotary / 2;
    const float* table = t.rope + row * t.rope_stride;
    a = turns ? table[i] : 1.0f, b = turns ? table[t.rotary / 2 + i] : 0.0f;
    if (head < t.heads) {
      to = t.q + (int64_t{row} * t.heads + head) * t.head_dim;
      return;
    }
    head -= t.heads;
    const int position = t.positions[row];
    const int page = t.page_table[int64_t{t.row_sequence[row]} * t.max_pages +
                                  position / kPageTokens];
    to = t.pool + pool_row(page, t.layers, t.layer, head / t.kv_heads, t.kv_heads,
                           head % t.kv_heads, position % kPageTokens, t.head_dim);
  }

  __device__ __forceinline__ void finish(const TailArgs& t, float sum0, float sum1, int segment) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    sum0 = sum0 * factor + c, sum1 = sum1 * factor + d;
    if constexpr (T == Tail::store) {
      if (there) put(t, sum0, sum1);
    } else if constexpr (T == Tail::gate) {
      if (there) {
        t.scaled[row * t.scaled_stride + first / 2] =
            as_bf16(__fdividef(sum0, 1.0f + __expf(-sum0)) * sum1);
      }
    } else if constexpr (T == Tail::append) {
      if (there) {
        to[first % t.head_dim] = as_bf16(sum0 * a - sum1 * b);
        to[second % t.head_dim] = as_bf16(sum1 * a + sum0 * b);
      }
    } else if constexpr (T == Tail::residual) {
      finish_residual(t, sum0, sum1, segment, lane);
    } else {
      if (there && t.y != nullptr) put(t, sum0, sum1);
      unsigned long long key = there ? best_key(sum0, first) : 0;
      if (there && twice) {
        const unsigned long long other = best_key(sum1, second);
        key = other > key ? other : key;
      }
      for (int lanes = segment / 2; lanes > 0; lanes /= 2) {
        const unsigned long long other = shuffle_xor(key, lanes);
        key = other > key ? other : key;
      }
      if (there && lane % segment == 0) atomicMax(t.best + row * kRowSlots, key);
    }
  }
  __device__ __forceinline__ void put(const TailArgs& t, float sum0, float sum1) const {
    float* y = t.y + row * t.y_stride;
    y[first] = sum0;
    if (twice) y[second] = sum1;
  }
  __device__ __forceinline__ void finish_residual(const TailArgs& t, float sum0, float sum1,
                                                  int segment, int lane) const {
    float squares = 0;
    if (there) {
      put(t, sum0, sum1);
      if (t.scaled != nullptr) {
        uint16_t* scaled = t.scaled + row * t.scaled_stride;
        scaled[first] = as_bf16(sum0 * a);
        if (twice) scaled[second] = as_bf16(sum1 * b);
        squares = sum0 * sum0 + (twice ? sum1 * sum1 : 0.0f);
      }
    }
    if (t.scaled == nullptr) return;
    for (int lanes = segment / 2; lanes > 0; lanes /= 2) squares += shuffle_xor(squares, lanes);
    if (there && lane % segment == 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(t.squares) + row * kRowSlots,
                static_cast<unsigned long long>(squares * kSquaresUnit));
    }
  }
};

}  // namespace
}  // namespace limpet::ops
