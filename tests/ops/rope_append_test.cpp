#include "tests/ops/attention_case.h"

namespace limpet::test {
namespace {

struct Inputs {
  std::vector<Tensor> in;
  std::vector<double> q;    // rotated
  std::vector<float> pool;  // as it should be afterwards
};

double rotated(const float* x, const float* table, int64_t i, int64_t rotary) {
  const int64_t half = rotary / 2;
  if (i >= rotary) return x[i];
  const double c = table[i % half], s = table[half + i % half];
  return i < half ? x[i] * c - x[i + half] * s : x[i] * c + x[i - half] * s;
}

Inputs make(const PagedKv& kv, const Rows& rows, int64_t rotary, int64_t true_rows) {
  const AttentionShape& s = kv.shape;
  const int64_t q_width = s.heads * s.head_dim, kv_width = s.kv_heads * s.head_dim;
  const int64_t n = rows.size();
  Random random(9);
  const auto q = random.many(n * q_width), k = random.many(n * kv_width),
             v = random.many(n * kv_width), table = random.many(n * rotary);
  Inputs made{
      {f32({n, q_width}, q), f32({n, kv_width}, k), f32({n, kv_width}, v), f32({n, rotary}, table),
       i32({n}, rows.positions), i32({n}, rows.row_sequence), kv.page_table, kv.pool},
      {},
      kv.pool.values};
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t i = 0; i < s.head_dim; ++i) {
        made.q.push_back(
            rotated(q.data() + r * q_width + h * s.head_dim, table.data() + r * rotary, i, rotary));
      }
    }
    for (int64_t h = 0; h < s.kv_heads && r < true_rows; ++h) {
      const int64_t from = r * kv_width + h * s.head_dim;
      for (int64_t i = 0; i < s.head_dim; ++i) {
        const double key = rotated(k.data() + from, table.data() + r * rotary, i, rotary);
        made.pool[kv.at(rows.row_sequence[r], rows.positions[r], 0, h) + i] =
            rounded(kv.pool.dtype, static_cast<float>(key));
        made.pool[kv.at(rows.row_sequence[r], rows.positions[r], 1, h) + i] =
            rounded(kv.pool.dtype, v[from + i]);
      }
    }
  }
  return made;
}

using RopeAppendTest = OnEveryDevice;

TEST_P(RopeAppendTest, EqualsTheReference) {
  const Rows rows({{1, 14, 5}, {0, 0, 1}, {2, 40, 2}});
  for (const AttentionShape& s :
       {AttentionShape{4, 2, 64}, AttentionShape{3, 3, 18}, AttentionShape{7, 1, 80}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const int64_t rotary : {s.head_dim, s.head_dim / 4 * 2}) {
        const PagedKv kv(s, dtype, 3, 48, 8);
        Inputs inputs = make(kv, rows, rotary, 7);
        const auto got = run_op(*backend_, ops::RopeAppend{s.layer}, inputs.in, inputs.in[0].shape,
                                {.count = 7, .updated = 7});
        expect_rows(got, inputs.q, 1e-6, s.heads * s.head_dim, 7);
        // One unit in the last place of bf16, where the reference rounds to the other side.
        const float tolerance = dtype == DType::f32 ? 1e-6f : 1.0f / 128;
        for (size_t i = 0; i < inputs.pool.size(); ++i) {
          ASSERT_NEAR(inputs.in[7].values[i], inputs.pool[i],
                      tolerance * std::abs(inputs.pool[i]) + 1e-6f);
        }
      }
    }
  }
}

TEST(RopeAppendRows, BitsDependNeitherOnTheBatchNorOnThreads) {
  const AttentionShape s{4, 2, 50};
  const Rows rows({{0, 3, 20}, {1, 0, 1}});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const PagedKv kv(s, dtype, 2, 48, 8);
    Inputs whole = make(kv, rows, 50, rows.size());
    auto alone = whole.in;
    auto two = make_backend({}, {.threads = 2}), one = make_backend({}, {.threads = 1});
    const auto want = run_op(*two, ops::RopeAppend{1}, whole.in, whole.in[0].shape, {.updated = 7});
    for (int64_t r = 0; r < rows.size(); ++r) {
      std::vector<Tensor> in;
      for (int i = 0; i < 4; ++i) {
        const int64_t cols = alone[i].shape.cols();
        in.push_back(f32({1, cols}, {alone[i].values.begin() + r * cols,
                                     alone[i].values.begin() + (r + 1) * cols}));
      }
      in.push_back(i32({1}, {rows.positions[r]}));
      in.push_back(i32({1}, {rows.row_sequence[r]}));
      in.push_back(alone[6]);
      in.push_back(alone[7]);
      const auto got = run_op(*one, ops::RopeAppend{1}, in, in[0].shape, {.updated = 7});
      alone[7] = in[7];
      ASSERT_TRUE(same_bits(got.data(), want.data() + r * 200, 200)) << "row " << r;
    }
    EXPECT_EQ(alone[7].values, whole.in[7].values);
  }
}

TEST(CpuRopeAppend, PositionsAndPagesOutsideTheTablesAreCaught) {
  auto backend = make_backend({}, {.threads = 1});
  const PagedKv kv({2, 1, 16}, DType::f32, 1, 32, 1);
  for (const int64_t past : {-1, 32}) {
    Inputs inputs = make(kv, Rows({{0, past, 1}}), 16, 0);
    EXPECT_THROW(run_op(*backend, ops::RopeAppend{1}, inputs.in, {1, 32}), std::logic_error);
  }
  Inputs inputs = make(kv, Rows({{0, 20, 1}}), 16, 0);
  inputs.in[6].ints[1] = -1;
  EXPECT_THROW(run_op(*backend, ops::RopeAppend{1}, inputs.in, {1, 32}), std::logic_error);
}

LIMPET_ON_EVERY_DEVICE(RopeAppendTest);

}  // namespace
}  // namespace limpet::test
