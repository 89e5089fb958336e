// Every reference checkpoint in both precisions, on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "clients/verify/verify.h"
#include "tests/gpu/gpus.h"

namespace limpet::client {
namespace {

using engine::Precision;

struct Way {
  std::string name;
  VerifyOptions options;
};
using Case = std::tuple<std::string, std::string, Precision, Way>;

class GpuGolden : public ::testing::TestWithParam<Case> {};

TEST_P(GpuGolden, MatchesTheReference) {
  const auto& [device, name, precision, way] = GetParam();
  const bool embedded = name == "limpet-tiny";
  const Golden golden = load_golden("tests/golden/" + name + "/golden.safetensors");
  auto options = verify_engine_options(golden, way.options);
  options.model_dir = embedded ? "models/limpet-tiny" : "tests/golden/" + name;
  options.device = device;
  options.precision = precision;
  VerifyOptions checked = way.options;
  checked.rope = embedded ? ReferenceRope::f32 : ReferenceRope::bf16;
  const VerifyReport report = verify_checkpoint(options, golden, checked);
  std::printf("%s %s\n", name.c_str(), report.json(precision).c_str());
  EXPECT_TRUE(report.pass(precision)) << report.json(precision);
  EXPECT_GT(report.logit_std, 0.01);
  EXPECT_EQ(report.greedy, std::ssize(golden.greedy_ids));
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const auto& [device, name, precision, way] = info.param;
  std::string text = device + "_" + name +
                     (precision == Precision::f32 ? "_f32_" : "_bf16_") + way.name;
  std::ranges::replace_if(text, [](char c) { return c == '-' || c == ':'; }, '_');
  return text;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuGolden);
INSTANTIATE_TEST_SUITE_P(
    Checkpoints, GpuGolden,
    ::testing::Combine(::testing::ValuesIn(test::gpus(true)),
                       ::testing::Values("llama-gqa", "qwen2-gqa7", "qwen3-qknorm", "mistral-swa",
                                         "limpet-tiny"),
                       ::testing::Values(Precision::f32, Precision::bf16),
                       ::testing::Values(Way{"whole", {}}, Way{"chunks_of_7", {.chunk = 7}},
                                         Way{"ragged_chunks_of_7",
                                             {.chunk = 7, .batch_with = 4}})),
    name_of);

}  // namespace
}  // namespace limpet::client
