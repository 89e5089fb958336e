#include <algorithm>
#include <limits>

#include "ops/paged_attention/paged_attention.h"
#include "ops/paged_attention/pool.h"
#include "ops/paged_attention/tile.h"

// Highway wants its includes in this order.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/paged_attention/paged_attention_cpu.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

#include "ops/paged_attention/tile-inl.h"
#include "ops/sixteen-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace limpet::ops::HWY_NAMESPACE {

// One block of a query's scores becomes weights; what it has so far is scaled to the new maximum.
void SoftmaxBlock(const Tile& tile, size_t query, int64_t low, int64_t high, float* scores,
                  float* out) {
  const Lanes d;
  const size_t lanes = hn::Lanes(d);
  auto highest = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < low; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  for (int64_t i = high; i < kBlock; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < kBlock; i += lanes) {
    const auto s = hn::Mul(hn::Load(d, scores + i), hn::Set(d, tile.scale));
    hn::Store(s, d, scores + i);
    highest = hn::Max(highest, s);
  }
  float& maximum = tile.maximum[query];
  const float now = std::max(maximum, hn::GetLane(hn::MaxOfLanes(d, highest)));
  const auto shrink = hn::Exp(d, hn::Set(d, maximum - now));
  maximum = now;
  for (size_t part = 0; part < 16; part += lanes) {
    float* sum = tile.sums + query * 16 + part;
    auto total = hn::Mul(hn::Load(d, sum), shrink);
    for (size_t i = part; i < kBlock; i += 16) {
      const auto w = hn::Exp(d, hn::Sub(hn::Load(d, scores + i), hn::Set(d, now)));
      hn::Store(w, d, scores + i);
      total = hn::Add(total, w);
    }
    hn::Store(total, d, sum);
  }
  for (size_t i = 0; i < tile.padded_dim(); i += lanes) {
    hn::Store(hn::Mul(hn::Load(d, out + i), shrink), d, out + i);
  }
}

void AttendBlock(const Tile& tile, int64_t block) {
  const int64_t base = block * kBlock;
  const float* q[kTileQueries];
  float* scores[kTileQueries];
  float* out[kTileQueries];
  const float* weights[kTileQueries];
  int64_t low[kTileQueries], high[kTileQueries];
  size_t query[kTileQueries], n = 0;
  int64_t stage_high = 0, stage_low = kBlock;
  for (size_t i = 0; i < tile.queries; ++i) {
    low[n] = std::max<int64_t>(0, tile.first[i] - base);
    high[n] = std::min(kBlock, tile.last[i] + 1 - base);
    if (low[n] >= high[n]) continue;
    stage_low = std::min(stage_low, low[n]);
    stage_high = std::max(stage_high, high[n]);
    query[n] = i;
    q[n] = tile.q[i];
    weights[n] = scores[n] = tile.scores + i * kBlock;
    out[n] = tile.out + i * tile.padded_dim();
    ++n;
  }
  if (n == 0) return;
  StageBlock(tile, block, stage_low, stage_high);
  Product<false>(q, n, tile.head_dim, tile.keys, kBlock, scores, kBlock);
  for (size_t i = 0; i < n; ++i) SoftmaxBlock(tile, query[i], low[i], high[i], scores[i], out[i]);
  Product<true>(weights, n, static_cast<size_t>(stage_high), tile.values, tile.padded_dim(), out,
                tile.padded_dim());
}

void AttendTile(const Tile& tile) {
  int64_t first = std::numeric_limits<int64_t>::max(), last = 0;
  for (size_t i = 0; i < tile.queries; ++i) {
    first = std::min(first, tile.first[i]);
    last = std::max(last, tile.last[i]);
    tile.maximum[i] = -std::numeric_limits<float>::infinity();
  }
  std::fill_n(tile.sums, tile.queries * 16, 0.0f);
  std::fill_n(tile.out, tile.queries * tile.padded_dim(), 0.0f);
  for (int64_t b = first / kBlock; b <= last / kBlock; ++b) AttendBlock(tile, b);
  for (size_t i = 0; i < tile.queries; ++i) {
    const float sum = SumOfSixteen(tile.sums + i * 16);
    const float* out = tile.out + i * tile.padded_dim();
    for (size_t j = 0; j < tile.head_dim; ++j) tile.result[i][j] = out[j] / sum;
  }
}

}  // namespace limpet::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace limpet::ops {
namespace {

HWY_EXPORT(AttendTile);

// Rows [row, row + rows) of one sequence, for query heads [head, head + heads) of a KV head.
struct Item {
  int64_t row = 0, rows = 0, kv_head = 0, head = 0, heads = 0;
};

struct Problem {
  const PagedAttention& op;
  const TensorView &q, &o;
  const int32_t* positions;
  PageTable pages;
  Pool pool;
  int64_t group;  // query heads of a KV head

  int64_t first_key(int64_t row) const {
    return op.window > 0 ? std::max<int64_t>(0, positions[row] - op.window + 1) : 0;
  }
};

void check_tables(const Problem& p, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t last = p.positions[r] / p.pool.page_tokens;
    require(p.positions[r] >= 0 && p.pages.has(r, last), "PagedAttention",
            "position outside the tables");
    // The next row of the same sequence checks this row's pages, and more.
    if (r + 1 < rows && p.op.window == 0 &&
        p.pages.row_sequence[r] == p.pages.row_sequence[r + 1] &&
        p.positions[r] < p.positions[r + 1]) {
      continue;
    }
    const int32_t* table = p.pages.of_row(r);
    for (int64_t i = p.first_key(r) / p.pool.page_tokens; i <= last; ++i) {
      require(table[i] >= 0 && table[i] < p.pool.pages, "PagedAttention", "page outside the pool");
    }
  }
}

// Cuts the rows into items. Any cut gives the same bits; this one shares staged keys between as
// many queries as a tile takes, and between the heads of a group, unless threads would be idle.
class Cut {
 public:
  Cut(const Problem& p, int64_t rows, int threads)
      : p_(p), rows_(rows), heads_(std::min<int64_t>(p.group, kTileQueries)) {
    if (rows * p.pool.kv_heads < threads) {
      const int64_t wanted = (threads + rows * p.pool.kv_heads - 1) / (rows * p.pool.kv_heads);
      heads_ = std::max<int64_t>(1, heads_ / wanted);
    }
    slices_ = (p.group + heads_ - 1) / heads_;
    per_tile_ = std::max<int64_t>(1, kTileQueries / heads_);
  }

  // Calls take(row, rows) for each run of a sequence's rows that makes one tile.
  template <class Take>
  void each_run(Take take) const {
    for (int64_t row = 0; row < rows_;) {
      int64_t end = row + 1;
      while (end < rows_ && end - row < per_tile_ &&
             p_.pages.row_sequence[end] == p_.pages.row_sequence[row]) {
        ++end;
      }
      take(row, end - row);
      row = end;
    }
  }
  int64_t items_of_run() const { return p_.pool.kv_heads * slices_; }
  Item item(int64_t row, int64_t rows, int64_t index) const {
    const int64_t head = index % slices_ * heads_;
    return {row, rows, index / slices_, head, std::min(heads_, p_.group - head)};
  }

 private:
  const Problem& p_;
  int64_t rows_, heads_, slices_ = 1, per_tile_ = 1;
};

void attend(const Problem& p, const Item& item, std::byte* scratch) {
  Tile tile(p.pool, p.op.layer, item.kv_head, p.pages.of_row(item.row), p.op.scale, scratch);
  for (int64_t r = item.row; r < item.row + item.rows; ++r) {
    for (int64_t h = item.head; h < item.head + item.heads; ++h) {
      const int64_t column = (item.kv_head * p.group + h) * p.pool.head_dim;
      tile.add(p.q.as<float>() + r * p.q.stride() + column,
               p.o.as<float>() + r * p.o.stride() + column, p.first_key(r), p.positions[r]);
    }
  }
  HWY_DYNAMIC_DISPATCH(AttendTile)(tile);
}

}  // namespace

void run(const PagedAttention& op, CpuContext& cpu, const Args& a) {
  const Pool pool(a.in[4]);
  const Problem p{op,
                  a.in[0],
                  a.out[0],
                  a.in[1].as<int32_t>(),
                  PageTable(a.in[2], a.in[3]),
                  pool,
                  a.in[0].cols() / (pool.kv_heads * pool.head_dim)};
  const int64_t rows = true_rows(a, a.out[0].rows());
  if (rows == 0) return;
  check_tables(p, rows);

  const Cut cut(p, rows, cpu.threads());
  int64_t runs = 0;
  cut.each_run([&](int64_t, int64_t) { ++runs; });
  auto* run_of = reinterpret_cast<std::array<int64_t, 2>*>(
      cpu.shared_scratch(static_cast<size_t>(runs) * sizeof(std::array<int64_t, 2>)));
  runs = 0;
  cut.each_run([&](int64_t row, int64_t n) { run_of[runs++] = {row, n}; });

  const int64_t each = cut.items_of_run();
  cpu.parallel_for(runs * each, [&](int64_t i, int thread) {
    const auto [row, n] = run_of[i / each];
    attend(p, cut.item(row, n, i % each),
           cpu.thread_scratch(thread, Tile::scratch_bytes(pool.head_dim)));
  });
}

}  // namespace limpet::ops
#endif
