#include "tests/ops/run_op.h"

namespace limpet::test {
namespace {

using GatedLinearTest = OnEveryDevice;

struct Case {
  int64_t rows, k, n;
  int32_t count = -1;
};
const Case kCases[] = {{1, 64, 32}, {3, 33, 17}, {9, 70, 100, 6}, {16, 128, 48}, {1, 1, 1}};

std::vector<Tensor> operands(const Case& c, DType dtype) {
  Random random(17);
  return {f32({c.rows, c.k}, random.many(c.rows * c.k, 2)),
          weight(Layout::gated, dtype, {2 * c.n, c.k}, random.many(2 * c.n * c.k))};
}

double dot(const Case& c, const std::vector<Tensor>& in, int64_t row, int64_t output) {
  double sum = 0;
  for (int64_t i = 0; i < c.k; ++i) {
    sum += static_cast<double>(rounded(in[1].dtype, in[0].values[row * c.k + i])) *
           rounded(in[1].dtype, in[1].values[output * c.k + i]);
  }
  return sum;
}

TEST_P(GatedLinearTest, EqualsTheReference) {
  for (const Case& c : kCases) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      auto in = operands(c, dtype);
      std::vector<double> want(static_cast<size_t>(c.rows * c.n));
      for (int64_t r = 0; r < c.rows; ++r) {
        for (int64_t j = 0; j < c.n; ++j) {
          const double gate = dot(c, in, r, j), up = dot(c, in, r, c.n + j);
          want[r * c.n + j] = gate / (1 + std::exp(-gate)) * up;
        }
      }
      const auto got = run_op(*backend_, ops::GatedLinear{}, in, {c.rows, c.n}, {.count = c.count});
      expect_rows(got, want, 2e-5, c.n, c.count < 0 ? c.rows : c.count);
    }
  }
}

TEST(GatedLinearRows, HasTheBitsOfTwoLinearsAndSiluMul) {
  const Case c{19, 66, 50};
  auto backend = make_backend({}, {.threads = 2});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    auto in = operands(c, dtype);
    const auto fused = run_op(*backend, ops::GatedLinear{}, in, {c.rows, c.n});
    const auto half = in[1].values.begin() + c.n * c.k;
    std::vector<Tensor> gate = {
        in[0], weight(Layout::linear, dtype, {c.n, c.k}, {in[1].values.begin(), half})};
    std::vector<Tensor> up = {
        in[0], weight(Layout::linear, dtype, {c.n, c.k}, {half, in[1].values.end()})};
    std::vector<Tensor> both = {
        f32({c.rows, c.n}, run_op(*backend, ops::Linear{}, gate, {c.rows, c.n})),
        f32({c.rows, c.n}, run_op(*backend, ops::Linear{}, up, {c.rows, c.n}))};
    EXPECT_EQ(run_op(*backend, ops::SiluMul{}, both, {c.rows, c.n}), fused);
  }
}

TEST(GatedLinearRows, BitsDependNeitherOnTheBatchNorOnThreads) {
  const Case c{11, 90, 70};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    auto in = operands(c, dtype);
    auto two = make_backend({}, {.threads = 2}), one = make_backend({}, {.threads = 1});
    const auto want = run_op(*two, ops::GatedLinear{}, in, {c.rows, c.n});
    for (int64_t r = 0; r < c.rows; ++r) {
      std::vector<Tensor> alone = {
          f32({1, c.k}, {in[0].values.begin() + r * c.k, in[0].values.begin() + (r + 1) * c.k}),
          in[1]};
      const auto got = run_op(*one, ops::GatedLinear{}, alone, {1, c.n});
      ASSERT_TRUE(same_bits(got.data(), want.data() + r * c.n, c.n)) << name_of(dtype) << r;
    }
  }
}

LIMPET_ON_EVERY_DEVICE(GatedLinearTest);

}  // namespace
}  // namespace limpet::test
