#include "tests/ops/attention_case.h"

namespace limpet::test {
namespace {

std::vector<Tensor> operands(const PagedKv& kv, const Rows& rows, const std::vector<float>& q) {
  return {f32({rows.size(), kv.shape.heads * kv.shape.head_dim}, q),
          i32({rows.size()}, rows.positions), i32({rows.size()}, rows.row_sequence), kv.page_table,
          kv.pool};
}

ops::PagedAttention op_of(const AttentionShape& s) {
  return {s.layer, 1.0f / std::sqrt(static_cast<float>(s.head_dim)), s.window};
}

void reference_head(const PagedKv& kv, const Rows& rows, const float* q, int64_t r, int64_t kv_head,
                    double* o) {
  const AttentionShape& s = kv.shape;
  const int64_t p = rows.positions[r];
  const int64_t first = s.window > 0 ? std::max<int64_t>(0, p - s.window + 1) : 0;
  std::vector<double> weights;
  double highest = -1e300, sum = 0;
  for (int64_t i = first; i <= p; ++i) {
    const float* k = kv.pool.values.data() + kv.at(rows.row_sequence[r], i, 0, kv_head);
    double score = 0;
    for (int64_t d = 0; d < s.head_dim; ++d) score += static_cast<double>(q[d]) * k[d];
    weights.push_back(score * op_of(s).scale);
    highest = std::max(highest, weights.back());
  }
  for (double& w : weights) sum += w = std::exp(w - highest);
  for (int64_t d = 0; d < s.head_dim; ++d) {
    o[d] = 0;
    for (int64_t i = first; i <= p; ++i) {
      o[d] +=
          weights[i - first] / sum * kv.pool.values[kv.at(rows.row_sequence[r], i, 1, kv_head) + d];
    }
  }
}

std::vector<double> reference(const PagedKv& kv, const Rows& rows, const std::vector<float>& q) {
  const AttentionShape& s = kv.shape;
  std::vector<double> o(q.size());
  for (int64_t r = 0; r < rows.size(); ++r) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t at = (r * s.heads + h) * s.head_dim;
      reference_head(kv, rows, q.data() + at, r, h / (s.heads / s.kv_heads), o.data() + at);
    }
  }
  return o;
}

const AttentionShape kShapes[] = {
    {4, 2, 64},  {1, 1, 16},    {7, 1, 32},          {14, 2, 80, 24},   {6, 3, 96, 100},
    {2, 2, 256}, {5, 5, 18, 1}, {8, 2, 128, 64, 64}, {3, 1, 112, 0, 4}, {70, 1, 20, 0, 16},
};
// Blocks of 64 keys and pages begin, end and are crossed within chunks.
const std::vector<Chunk> kChunks = {{2, 0, 1}, {0, 63, 1}, {3, 60, 70}, {1, 0, 17}, {4, 200, 3}};

using PagedAttentionTest = OnEveryDevice;

TEST_P(PagedAttentionTest, EqualsTheReference) {
  const Rows rows(kChunks);
  for (const AttentionShape& s : kShapes) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE("heads " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " of " +
                   std::to_string(s.head_dim) + ", window " + std::to_string(s.window));
      const PagedKv kv(s, dtype, 5, 208, 1);
      Random random(2);
      const auto q = random.many(rows.size() * s.heads * s.head_dim, 2);
      auto in = operands(kv, rows, q);
      const auto got = run_op(*backend_, op_of(s), in, in[0].shape, {.count = 90});
      expect_rows(got, reference(kv, rows, q), 1e-5, s.heads * s.head_dim, 90);
    }
  }
}

TEST_P(PagedAttentionTest, IgnoresWhatIsNotItsSequences) {
  // NaN wherever no key or value of the rows' windows is.
  for (const int64_t window : {int64_t{0}, int64_t{20}}) {
    const AttentionShape s{4, 2, 32, window};
    PagedKv kv(s, DType::f32, 2, 208, 3);
    const Rows rows({{0, 100, 1}, {1, 150, 9}});
    const auto clean = kv.pool.values;
    std::fill(kv.pool.values.begin(), kv.pool.values.end(), NAN);
    const auto keep = [&](int32_t sequence, int64_t first, int64_t last) {
      // Whole pages before the window may be gone; its own page is still there.
      first = first / s.page_tokens * s.page_tokens;
      for (int64_t i = first; i <= last; ++i) {
        for (int64_t which = 0; which < 2; ++which) {
          for (int64_t h = 0; h < s.kv_heads; ++h) {
            const size_t at = kv.at(sequence, i, which, h);
            std::copy_n(clean.begin() + static_cast<int64_t>(at), s.head_dim,
                        kv.pool.values.begin() + static_cast<int64_t>(at));
          }
        }
      }
    };
    keep(0, window == 0 ? 0 : 81, 100);
    keep(1, window == 0 ? 0 : 131, 158);
    Random random(4);
    const auto q = random.many(rows.size() * s.heads * s.head_dim);
    auto in = operands(kv, rows, q);
    const auto got = run_op(*backend_, op_of(s), in, in[0].shape);
    kv.pool.values = clean;
    expect_rows(got, reference(kv, rows, q), 1e-5, s.heads * s.head_dim, rows.size());
  }
}

TEST(PagedAttentionRows, BitsDependNeitherOnTheBatchNorOnChunksNorOnThreads) {
  for (const AttentionShape& s :
       {AttentionShape{14, 2, 64}, AttentionShape{4, 4, 80, 24}, AttentionShape{3, 1, 50}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const PagedKv kv(s, dtype, 5, 208, 6);
      const Rows rows(kChunks);
      const int64_t width = s.heads * s.head_dim;
      Random random(7);
      const auto q = random.many(rows.size() * width);
      auto in = operands(kv, rows, q);
      auto one = make_backend({}, {.threads = 1});
      const auto want = run_op(*one, op_of(s), in, in[0].shape);
      for (const int threads : {2, 5}) {
        auto many = make_backend({}, {.threads = threads});
        EXPECT_EQ(run_op(*many, op_of(s), in, in[0].shape), want) << threads << " threads";
      }
      auto four = make_backend({}, {.threads = 4});
      for (const int64_t chunk : {1, 7}) {
        for (int64_t at = 0; at < rows.size(); at += chunk) {
          const int64_t n = std::min(chunk, rows.size() - at);
          Rows some({});
          some.positions = {rows.positions.begin() + at, rows.positions.begin() + at + n};
          some.row_sequence = {rows.row_sequence.begin() + at, rows.row_sequence.begin() + at + n};
          auto part = operands(kv, some, {q.begin() + at * width, q.begin() + (at + n) * width});
          const auto got = run_op(chunk == 1 ? *one : *four, op_of(s), part, part[0].shape);
          ASSERT_TRUE(same_bits(got.data(), want.data() + at * width, n * width))
              << "rows from " << at << " in chunks of " << chunk;
        }
      }
    }
  }
}

TEST(CpuPagedAttention, PositionsAndPagesOutsideTheTablesAreCaught) {
  auto backend = make_backend({}, {.threads = 1});
  const AttentionShape s{2, 1, 16};
  PagedKv kv(s, DType::f32, 1, 32, 1);
  for (const int64_t past : {-1, 32}) {
    auto in = operands(kv, Rows({{0, past, 1}}), std::vector<float>(32));
    EXPECT_THROW(run_op(*backend, op_of(s), in, {1, 32}), std::logic_error);
  }
  auto stray = operands(kv, Rows({{1, 0, 1}}), std::vector<float>(32));
  EXPECT_THROW(run_op(*backend, op_of(s), stray, {1, 32}), std::logic_error);
  kv.page_table.ints[0] = 99;
  auto in = operands(kv, Rows({{0, 20, 1}}), std::vector<float>(32));
  EXPECT_THROW(run_op(*backend, op_of(s), in, {1, 32}), std::logic_error);
}

LIMPET_ON_EVERY_DEVICE(PagedAttentionTest);

}  // namespace
}  // namespace limpet::test
