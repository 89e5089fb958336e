// A tile's block of keys and values made ready, and the two products with them.
// Included once per target, after hwy/highway.h.
#if defined(LIMPET_OPS_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LIMPET_OPS_TILE_INL_H_
#undef LIMPET_OPS_TILE_INL_H_
#else
#define LIMPET_OPS_TILE_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "ops/paged_attention/tile.h"

HWY_BEFORE_NAMESPACE();
namespace limpet::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Lanes = hn::CappedTag<float, 16>;

template <class D>
HWY_INLINE hn::Vec<D> Widened(D d, const float* from) {
  return hn::LoadU(d, from);
}
template <class D>
HWY_INLINE hn::Vec<D> Widened(D d, const uint16_t* from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, from))));
}
HWY_INLINE float WidenedOne(float v) { return v; }
HWY_INLINE float WidenedOne(uint16_t v) { return f32_from_bf16(v); }

// keys[i][token + t] = from[t][i] for the page's tokens, four by four.
template <class T>
HWY_INLINE void StageKeys(const T* from, size_t dim, size_t tokens, float* keys) {
  size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  const hn::FixedTag<double, 2> dd;
  for (; i + 4 <= dim; i += 4) {
    for (size_t t = 0; t < tokens; t += 4) {
      const T* at = from + t * dim + i;
      const auto a = Widened(d, at), b = Widened(d, at + dim);
      const auto c = Widened(d, at + 2 * dim), e = Widened(d, at + 3 * dim);
      const auto ab_low = hn::BitCast(dd, hn::InterleaveLower(d, a, b));
      const auto ab_high = hn::BitCast(dd, hn::InterleaveUpper(d, a, b));
      const auto ce_low = hn::BitCast(dd, hn::InterleaveLower(d, c, e));
      const auto ce_high = hn::BitCast(dd, hn::InterleaveUpper(d, c, e));
      float* to = keys + i * kBlock + t;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, ab_low, ce_low)), d, to);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, ab_low, ce_low)), d, to + kBlock);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, ab_high, ce_high)), d, to + 2 * kBlock);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, ab_high, ce_high)), d, to + 3 * kBlock);
    }
  }
#endif
  for (; i < dim; ++i) {
    for (size_t t = 0; t < tokens; ++t) keys[i * kBlock + t] = WidenedOne(from[t * dim + i]);
  }
}

template <class T>
HWY_INLINE void StageValues(const T* from, size_t dim, size_t padded, size_t tokens, float* to) {
  const Lanes d;
  const size_t lanes = hn::Lanes(d);
  for (size_t t = 0; t < tokens; ++t, from += dim, to += padded) {
    size_t i = 0;
    for (; i + lanes <= dim; i += lanes) hn::Store(Widened(d, from + i), d, to + i);
    for (; i < dim; ++i) to[i] = WidenedOne(from[i]);
    for (; i < padded; ++i) to[i] = 0;
  }
}

template <class T>
HWY_INLINE void StagePage(const Tile& tile, int64_t page, size_t at, size_t tokens) {
  const auto* keys = reinterpret_cast<const T*>(tile.pool.rows(page, tile.layer, 0, tile.kv_head));
  const auto* values =
      reinterpret_cast<const T*>(tile.pool.rows(page, tile.layer, 1, tile.kv_head));
  // Whole fours of keys: those beyond are masked before use.
  StageKeys(keys, tile.head_dim, (tokens + 3) / 4 * 4, tile.keys + at);
  StageValues(values, tile.head_dim, tile.padded_dim(), tokens,
              tile.values + at * tile.padded_dim());
}

// Asks memory for a page's keys and values of this head: pages stand far apart, so the processor
// does not see which is next.
HWY_INLINE void PrefetchPage(const Tile& tile, int64_t page) {
  const int64_t bytes =
      tile.pool.page_tokens * tile.pool.head_dim * size_of(tile.pool.dtype);
  for (const int64_t which : {0, 1}) {
    const std::byte* from = tile.pool.rows(page, tile.layer, which, tile.kv_head);
    for (int64_t at = 0; at < bytes; at += 64) hwy::Prefetch(from + at);
  }
}

// Keys and values [low, high) of a block. Pages that hold none of them are not touched; the
// values before the first page are zero (their weights are, too).
HWY_INLINE void StageBlock(const Tile& tile, int64_t block, int64_t low, int64_t high) {
  const int64_t tokens = tile.pool.page_tokens;
  const int64_t start = low / tokens * tokens;
  std::fill_n(tile.values, static_cast<size_t>(start) * tile.padded_dim(), 0.0f);
  for (int64_t at = start; at < high; at += tokens) {
    const int64_t index = (block * kBlock + at) / tokens;
    const int64_t page = tile.pages[index];
    const int64_t ahead = index + kPagesAhead;
    if (ahead * tokens <= tile.last_key) PrefetchPage(tile, tile.pages[ahead]);
    const auto n = static_cast<size_t>(std::min(tokens, high - at));
    if (tile.pool.dtype == DType::f32) {
      StagePage<float>(tile, page, static_cast<size_t>(at), n);
    } else {
      StagePage<uint16_t>(tile, page, static_cast<size_t>(at), n);
    }
  }
}

// c[r][j…] (+)= sum over i of a[r][i] * b[i][j…], each sum one chain in the order of i.
template <bool kAdd, size_t kRows, size_t kVectors>
HWY_INLINE void ProductPart(const float* const* a, size_t k, const float* b, size_t stride,
                            float* const* c, size_t column) {
  const Lanes d;
  constexpr size_t lanes = hn::MaxLanes(Lanes());
  hn::Vec<Lanes> sum[kRows * kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      sum[r * kVectors + v] = kAdd ? hn::Load(d, c[r] + column + v * lanes) : hn::Zero(d);
    }
  }
  const float* row = b + column;
  for (size_t i = 0; i < k; ++i, row += stride) {
    hn::Vec<Lanes> right[kVectors];
    for (size_t v = 0; v < kVectors; ++v) right[v] = hn::Load(d, row + v * lanes);
    for (size_t r = 0; r < kRows; ++r) {
      const auto left = hn::Set(d, a[r][i]);
      for (size_t v = 0; v < kVectors; ++v) {
        auto& s = sum[r * kVectors + v];
        s = hn::MulAdd(left, right[v], s);
      }
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      hn::Store(sum[r * kVectors + v], d, c[r] + column + v * lanes);
    }
  }
}

template <bool kAdd, size_t kRows>
HWY_INLINE void ProductRows(const float* const* a, size_t k, const float* b, size_t stride,
                            float* const* c, size_t columns) {
  constexpr size_t lanes = hn::MaxLanes(Lanes());
  size_t column = 0;
  if constexpr (kRows == 1) {
    for (; column + 4 * lanes <= columns; column += 4 * lanes) {
      ProductPart<kAdd, kRows, 4>(a, k, b, stride, c, column);
    }
  }
  for (; column + 2 * lanes <= columns; column += 2 * lanes) {
    ProductPart<kAdd, kRows, 2>(a, k, b, stride, c, column);
  }
  for (; column < columns; column += lanes) {
    ProductPart<kAdd, kRows, 1>(a, k, b, stride, c, column);
  }
}

template <bool kAdd>
HWY_INLINE void Product(const float* const* a, size_t rows, size_t k, const float* b, size_t stride,
                        float* const* c, size_t columns) {
  size_t r = 0;
  for (; r + 4 <= rows; r += 4) ProductRows<kAdd, 4>(a + r, k, b, stride, c + r, columns);
  for (; r < rows; ++r) ProductRows<kAdd, 1>(a + r, k, b, stride, c + r, columns);
}

}  // namespace limpet::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
