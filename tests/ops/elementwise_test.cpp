// The ops that treat elements or rows on their own.
#include "tests/ops/run_op.h"

namespace limpet::test {
namespace {

struct Case {
  int64_t rows, n;
  int32_t count = -1;
  int64_t truth() const { return count < 0 ? rows : count; }
};
const Case kCases[] = {{1, 1}, {1, 64}, {3, 17}, {5, 100, 3}, {2, 1030}, {4, 33, 0}};

class RmsNormTest : public OnEveryDevice {};
class SiluMulTest : public OnEveryDevice {};
class AddTest : public OnEveryDevice {};
class GatherRowsTest : public OnEveryDevice {};
class EmbeddingTest : public OnEveryDevice {};
class RopeTableTest : public OnEveryDevice {};

TEST_P(RmsNormTest, EqualsTheReference) {
  for (const Case& c : kCases) {
    for (const int64_t heads : {1, 3}) {
      Random random(1);
      const int64_t width = heads * c.n;
      std::vector<Tensor> in = {f32({c.rows, width}, random.many(c.rows * width, 3)),
                                f32({c.n}, random.many(c.n))};
      std::vector<double> want;
      for (int64_t slice = 0; slice < c.rows * heads; ++slice) {
        const float* x = in[0].values.data() + slice * c.n;
        double sum = 0;
        for (int64_t i = 0; i < c.n; ++i) sum += static_cast<double>(x[i]) * x[i];
        const double scale = 1 / std::sqrt(sum / static_cast<double>(c.n) + 1e-5);
        for (int64_t i = 0; i < c.n; ++i) want.push_back(x[i] * scale * in[1].values[i]);
      }
      const auto got =
          run_op(*backend_, ops::RmsNorm{1e-5f, heads}, in, {c.rows, width}, {.count = c.count});
      expect_rows(got, want, 1e-6, width, c.truth());
    }
  }
}

TEST_P(SiluMulTest, EqualsTheReference) {
  for (const Case& c : kCases) {
    Random random(2);
    std::vector<Tensor> in = {f32({c.rows, c.n}, random.many(c.rows * c.n, 12)),
                              f32({c.rows, c.n}, random.many(c.rows * c.n))};
    std::vector<double> want;
    for (size_t i = 0; i < in[0].values.size(); ++i) {
      const double a = in[0].values[i];
      want.push_back(a / (1 + std::exp(-a)) * in[1].values[i]);
    }
    const auto got = run_op(*backend_, ops::SiluMul{}, in, {c.rows, c.n}, {.count = c.count});
    expect_rows(got, want, 1e-6, c.n, c.truth());
  }
}

TEST_P(SiluMulTest, IsFiniteFarOut) {
  std::vector<Tensor> in = {f32({1, 6}, {-1e30f, -200, -89, 89, 200, 1e30f}),
                            f32({1, 6}, {1, 1, 1, 1, 1, 1})};
  const auto y = run_op(*backend_, ops::SiluMul{}, in, {1, 6});
  for (const size_t i : {1u, 2u}) EXPECT_NEAR(y[i], 0, 1e-30);
  for (const size_t i : {3u, 4u, 5u}) EXPECT_EQ(y[i], in[0].values[i]);
  EXPECT_TRUE(std::isfinite(y[0]));
  EXPECT_NEAR(y[0], 0, 1e-6);
}

TEST_P(AddTest, Adds) {
  for (const Case& c : kCases) {
    Random random(3);
    std::vector<Tensor> in = {f32({c.rows, c.n}, random.many(c.rows * c.n)),
                              f32({c.rows, c.n}, random.many(c.rows * c.n))};
    std::vector<double> want;
    for (size_t i = 0; i < in[0].values.size(); ++i) {
      want.push_back(in[0].values[i] + in[1].values[i]);
    }
    expect_rows(run_op(*backend_, ops::Add{}, in, {c.rows, c.n}, {.count = c.count}), want, 0, c.n,
                c.truth());
  }
}

TEST_P(GatherRowsTest, TakesTheWantedRows) {
  Random random(4);
  const int64_t n = 37;
  std::vector<Tensor> in = {f32({6, n}, random.many(6 * n)), i32({4}, {5, 0, 5, 2})};
  std::vector<double> want;
  for (const int32_t row : in[1].ints) {
    for (int64_t i = 0; i < n; ++i) want.push_back(in[0].values[row * n + i]);
  }
  expect_rows(run_op(*backend_, ops::GatherRows{}, in, {4, n}), want, 0, n, 4);
  in[1].ints = {5, 0, -1, 99};  // beyond the count nothing is read
  expect_rows(run_op(*backend_, ops::GatherRows{}, in, {4, n}, {.count = 2}), want, 0, n, 2);
}

TEST_P(EmbeddingTest, TakesRowsFromEitherLayout) {
  for (const int64_t hidden : {64, 33}) {
    Random random(5);
    const int64_t vocab = 70;
    const auto table = random.many(vocab * hidden);
    const std::vector<int32_t> ids = {69, 0, 31, 32, 33, 69, 1};
    for (const DType dtype : {DType::f32, DType::bf16}) {
      std::vector<double> want;
      for (const int32_t id : ids) {
        for (int64_t i = 0; i < hidden; ++i) want.push_back(rounded(dtype, table[id * hidden + i]));
      }
      for (const Layout layout : {Layout::dense, Layout::linear}) {
        std::vector<Tensor> in = {i32({7}, ids), weight(layout, dtype, {vocab, hidden}, table)};
        const auto got = run_op(*backend_, ops::Embedding{}, in, {7, hidden}, {.count = 6});
        expect_rows(got, want, 0, hidden, 6);
      }
    }
  }
}

TEST_P(RopeTableTest, EqualsTheReference) {
  const std::vector<int32_t> positions = {0, 1, 77, 4095, 131071};
  const std::vector<float> frequencies = {1.0f, 0.316f, 0.01f, 1.2e-5f};
  std::vector<Tensor> in = {i32({5}, positions), f32({4}, frequencies)};
  std::vector<double> want;
  for (const int32_t p : positions) {
    for (const float f : frequencies) want.push_back(std::cos(double{static_cast<float>(p) * f}));
    for (const float f : frequencies) want.push_back(std::sin(double{static_cast<float>(p) * f}));
  }
  expect_rows(run_op(*backend_, ops::RopeTable{}, in, {5, 8}, {.count = 5}), want, 1e-6, 8, 5);
}

// Rows of sequences beyond the trained length take frequencies of their own.
TEST_P(RopeTableTest, DynamicScalingEqualsTheReference) {
  const std::vector<int32_t> positions = {0, 1, 31, 32, 50, 127, 9};
  const std::vector<float> frequencies = {1.0f, 0.1f, 0.01f, 0.001f};  // 10000 ^ (-i / 4)
  const int64_t n = std::ssize(frequencies), rows = std::ssize(positions);
  for (const int64_t least : {0, 50}) {
    const ops::RopeGrowth growth{.theta = 1e4, .factor = 4, .trained = 32, .least = least};
    std::vector<double> want;
    for (const int32_t p : positions) {
      const auto length = static_cast<double>(std::max<int64_t>(p + 1, least));
      const double stretch = length > 32 ? 4 * length / 32 - 3 : 1;
      const double base = 1e4 * std::pow(stretch, 4.0 / 3);
      const auto angle = [&](int64_t i) {
        const double exponent = -static_cast<double>(i) / static_cast<double>(n);
        return p * static_cast<double>(static_cast<float>(std::pow(base, exponent)));
      };
      for (int64_t i = 0; i < n; ++i) want.push_back(std::cos(angle(i)));
      for (int64_t i = 0; i < n; ++i) want.push_back(std::sin(angle(i)));
    }
    std::vector<Tensor> in = {i32({rows}, positions), f32({n}, frequencies)};
    const auto got = run_op(*backend_, ops::RopeTable{growth}, in, {rows, 2 * n},
                            {.count = static_cast<int32_t>(rows)});
    expect_rows(got, want, 1e-5, 2 * n, rows);
  }
}

TEST(CpuOps, OutOfRangeIndicesAreCaught) {
  auto backend = make_backend({}, {.threads = 1});
  std::vector<Tensor> in = {f32({2, 4}, std::vector<float>(8)), i32({1}, {2})};
  EXPECT_THROW(run_op(*backend, ops::GatherRows{}, in, {1, 4}), std::logic_error);
  for (const int32_t id : {-1, 3}) {
    in = {i32({1}, {id}), weight(Layout::dense, DType::f32, {3, 4}, std::vector<float>(12))};
    EXPECT_THROW(run_op(*backend, ops::Embedding{}, in, {1, 4}), std::logic_error);
  }
}

LIMPET_ON_EVERY_DEVICE(RmsNormTest);
LIMPET_ON_EVERY_DEVICE(SiluMulTest);
LIMPET_ON_EVERY_DEVICE(AddTest);
LIMPET_ON_EVERY_DEVICE(GatherRowsTest);
LIMPET_ON_EVERY_DEVICE(EmbeddingTest);
LIMPET_ON_EVERY_DEVICE(RopeTableTest);

}  // namespace
}  // namespace limpet::test
