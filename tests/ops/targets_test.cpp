// The same bits from every instruction set of this machine, or the same within rounding where one
// has no fused multiply-add.
#include <hwy/targets.h>

#include "tests/ops/attention_case.h"

namespace limpet::test {
namespace {

class Targets : public testing::Test {
 protected:
  static std::vector<int64_t> all() { return hwy::SupportedAndGeneratedTargets(); }
  // Kernels choose again at their next call.
  static void use(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override { use(0); }

  static bool fused(int64_t target) { return target <= HWY_AVX2; }

  // Runs on each target, best first; all that fuse must agree with the best bit for bit.
  template <class Run>
  static void compare(Run run, double tolerance) {
    const auto targets = all();
    ASSERT_FALSE(targets.empty());
    use(targets[0]);
    const std::vector<float> best = run();
    for (const int64_t target : targets) {
      use(target);
      SCOPED_TRACE(hwy::TargetName(target));
      const std::vector<float> got = run();
      if (fused(target) == fused(targets[0])) {
        ASSERT_TRUE(same_bits(got.data(), best.data(), static_cast<int64_t>(got.size())));
      }
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], best[i], tolerance * (1 + std::abs(best[i])));
      }
    }
  }
};

TEST_F(Targets, Linear) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
    Random random(1);
    std::vector<Tensor> in = {f32({13, 75}, random.many(13 * 75)),
                              weight(Layout::linear, dtype, {50, 75}, random.many(50 * 75))};
    auto backend = make_backend({}, {.threads = 1, .bf16_dot = false});
    compare([&] { return run_op(*backend, ops::Linear{}, in, {13, 50}); }, 1e-5);
    if (dtype != DType::bf16) continue;
    compare([&] { return run_op(*backend, ops::Linear{.exact = true}, in, {13, 50}); }, 1e-5);
  }
}

TEST_F(Targets, RowsAloneHaveTheBitsOfTheBatchOnEach) {
  for (const int64_t target : all()) {
    use(target);
    for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
      constexpr int64_t k = 331;  // of several blocks, the last one not whole
      Random random(2);
      std::vector<Tensor> in = {f32({11, k}, random.many(11 * k)),
                                weight(Layout::linear, dtype, {40, k}, random.many(40 * k))};
      auto backend = make_backend({}, {.threads = 1, .bf16_dot = false});
      const auto want = run_op(*backend, ops::Linear{}, in, {11, 40});
      for (int64_t r = 0; r < 11; ++r) {
        std::vector<Tensor> alone = {
            f32({1, k}, {in[0].values.begin() + r * k, in[0].values.begin() + r * k + k}),
            in[1]};
        const auto got = run_op(*backend, ops::Linear{}, alone, {1, 40});
        ASSERT_TRUE(same_bits(got.data(), want.data() + r * 40, 40)) << hwy::TargetName(target);
      }
    }
  }
}

TEST_F(Targets, DotProductsHaveTheBitsOfTheOthers) {
  for (const DType dtype : {DType::bf16, DType::i8}) {
    for (const int64_t rows : {1, 2, 3, 8, 13}) {
      for (const int64_t k : {1, 17, 48, 75, 512}) {
        Random random(3);
        std::vector<Tensor> in = {f32({rows, k}, random.many(rows * k)),
                                  weight(Layout::linear, dtype, {50, k}, random.many(50 * k))};
        auto dot = make_backend({}, {.threads = 1}),
             plain = make_backend({}, {.threads = 1, .bf16_dot = false});
        EXPECT_EQ(run_op(*dot, ops::Linear{}, in, {rows, 50}),
                  run_op(*plain, ops::Linear{}, in, {rows, 50}))
            << rows << " rows of " << k << ' ' << name_of(dtype);
      }
    }
  }
}

TEST_F(Targets, RmsNormAndSiluMul) {
  Random random(4);
  std::vector<Tensor> norm = {f32({3, 117}, random.many(3 * 117)), f32({117}, random.many(117))};
  std::vector<Tensor> silu = {f32({3, 117}, random.many(3 * 117, 9)),
                              f32({3, 117}, random.many(3 * 117))};
  auto backend = make_backend({}, {.threads = 1});
  compare([&] { return run_op(*backend, ops::RmsNorm{1e-6f, 1}, norm, {3, 117}); }, 1e-6);
  compare([&] { return run_op(*backend, ops::SiluMul{}, silu, {3, 117}); }, 1e-6);
}

TEST_F(Targets, PagedAttention) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const AttentionShape s{6, 2, 42, 90};
    const PagedKv kv(s, dtype, 2, 160, 5);
    const Rows rows({{0, 60, 9}, {1, 150, 1}});
    Random random(6);
    std::vector<Tensor> in = {f32({10, 252}, random.many(2520)), i32({10}, rows.positions),
                              i32({10}, rows.row_sequence), kv.page_table, kv.pool};
    auto backend = make_backend({}, {.threads = 1});
    compare(
        [&] {
          return run_op(*backend, ops::PagedAttention{1, 0.2f, 90}, in, {10, 252});
        },
        1e-5);
  }
}

}  // namespace
}  // namespace limpet::test
