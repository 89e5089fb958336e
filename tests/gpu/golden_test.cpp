// Every reference checkpoint in both precisions, on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "tests/golden/references.h"
#include "tests/gpu/gpus.h"

namespace limpet::client {
namespace {

using engine::Precision;

using Case = std::tuple<std::string, std::string, Precision, test::VerifyWay>;

class GpuGolden : public ::testing::TestWithParam<Case> {};

TEST_P(GpuGolden, MatchesTheReference) {
  const auto& [device, name, precision, way] = GetParam();
  const auto [report, greedy] = test::verify_reference(device, name, precision, way);
  std::printf("%s %s\n", name.c_str(), report.json(precision).c_str());
  EXPECT_TRUE(report.pass(precision)) << report.json(precision);
  EXPECT_GT(report.logit_std, 0.01);
  EXPECT_EQ(report.greedy, greedy);
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const auto& [device, name, precision, way] = info.param;
  std::string text = device + "_" + name +
                     (precision == Precision::f32 ? "_f32_" : "_bf16_") + way.name;
  std::ranges::replace_if(text, [](char c) { return c == '-' || c == ':'; }, '_');
  return text;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuGolden);
INSTANTIATE_TEST_SUITE_P(Checkpoints, GpuGolden,
                         ::testing::Combine(::testing::ValuesIn(test::gpus(true)),
                                            ::testing::ValuesIn(test::references()),
                                            ::testing::Values(Precision::f32, Precision::bf16),
                                            ::testing::ValuesIn(test::verify_ways())),
                         name_of);

}  // namespace
}  // namespace limpet::client
