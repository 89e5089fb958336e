// Every reference checkpoint in both precisions, prefilled whole and in chunks, alone and in a
// ragged batch. The names of the cases say which.
#include "clients/verify/verify.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "tests/golden/references.h"

namespace limpet::client {
namespace {

using engine::Precision;

using Case = std::tuple<std::string, Precision, test::VerifyWay>;

class Verify : public ::testing::TestWithParam<Case> {};

TEST_P(Verify, MatchesTheReference) {
  const auto& [name, precision, way] = GetParam();
  const auto [report, greedy] = test::verify_reference("cpu", name, precision, way);
  EXPECT_TRUE(report.pass(precision)) << report.json(precision);
  EXPECT_GT(report.logit_std, 0.01);
  EXPECT_EQ(report.greedy, greedy);
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const auto& [name, precision, way] = info.param;
  std::string text = name + (precision == Precision::f32 ? "_f32_" : "_bf16_") + way.name;
  std::ranges::replace(text, '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Verify,
                         ::testing::Combine(::testing::ValuesIn(test::references()),
                                            ::testing::Values(Precision::f32, Precision::bf16),
                                            ::testing::ValuesIn(test::verify_ways())),
                         name_of);

TEST(VerifyInt8, IsWithinItsToleranceAndNotWithinBf16s) {
  for (const std::string name : {"llama-gqa", "mistral-yarn-mscale", "qwen3-linear"}) {
    const Golden golden = load_golden("tests/golden/" + name + "/golden.safetensors");
    auto options = verify_engine_options(golden, {});
    options.model_dir = "tests/golden/" + name;
    options.int8_weights = true;
    VerifyReport report = verify_checkpoint(options, golden, {});
    EXPECT_TRUE(report.int8_weights);
    EXPECT_TRUE(report.pass(Precision::bf16)) << report.json(Precision::bf16);
    report.int8_weights = false;
    EXPECT_FALSE(report.pass(Precision::bf16)) << "the weights were not int8";
  }
}

TEST(VerifyReport, ToleranceSeparatesGoodFromBad) {
  VerifyReport r;
  r.logit_std = 1;
  r.matched = r.greedy = 3;
  r.max_abs_prefill = 0.9e-3;
  EXPECT_TRUE(r.pass(Precision::f32));
  r.max_abs_step = 1.1e-3;
  EXPECT_FALSE(r.pass(Precision::f32));
  EXPECT_TRUE(r.pass(Precision::bf16));
  r.matched = 2;
  r.first_gap = 0.01;
  EXPECT_TRUE(r.pass(Precision::bf16));
  r.first_gap = 0.03;
  EXPECT_FALSE(r.pass(Precision::bf16));
  r.matched = 3;
  r.kld = 2e-3;
  EXPECT_FALSE(r.pass(Precision::bf16));
  r.kld = std::nan("");
  r.max_abs_step = 0;
  EXPECT_FALSE(r.pass(Precision::f32));
  r.kld = 0;
  r.max_abs_step = std::nan("");
  EXPECT_FALSE(r.pass(Precision::bf16));
}

TEST(VerifyReport, InF32TheReferencesRotaryFrequenciesAreFound) {
  const auto rope_of = [](const std::string& model, const std::string& golden_name) {
    const Golden golden = load_golden("tests/golden/" + golden_name + "/golden.safetensors");
    auto options = verify_engine_options(golden, {});
    options.model_dir = model;
    options.precision = Precision::f32;
    const VerifyReport report = verify_checkpoint(options, golden, {});
    EXPECT_TRUE(report.pass(Precision::f32));
    return report.bf16_rope;
  };
  EXPECT_TRUE(rope_of("tests/golden/llama-gqa", "llama-gqa"));
  EXPECT_FALSE(rope_of("models/limpet-tiny", "limpet-tiny"));
}

TEST(VerifyReport, ANanInAMiddleColumnIsNoticed) {
  const Golden good = load_golden("tests/golden/llama-gqa/golden.safetensors");
  auto options = verify_engine_options(good, {});
  options.model_dir = "tests/golden/llama-gqa";
  options.precision = Precision::f32;
  options.bf16_rope_frequencies = true;  // as this reference has them
  const auto engine = engine::Engine::open(options);
  EXPECT_TRUE(verify(*engine, good, {}).pass(Precision::f32));
  Golden bad = good;
  bad.step_logits[static_cast<size_t>(bad.vocab / 2)] = std::nanf("");
  const VerifyReport report = verify(*engine, bad, {});
  EXPECT_TRUE(std::isnan(report.max_abs_step));
  EXPECT_EQ(report.matched, report.greedy);
  EXPECT_FALSE(report.pass(Precision::f32));
}

TEST(VerifyReport, AWrongTokenIsNoticed) {
  Golden golden = load_golden("tests/golden/llama-gqa/golden.safetensors");
  golden.input_ids[5] ^= 1;  // as a wrong embedding row would
  auto options = verify_engine_options(golden, {});
  options.model_dir = "tests/golden/llama-gqa";
  const VerifyReport report = verify_checkpoint(options, golden, {});
  EXPECT_FALSE(report.pass(Precision::bf16));
  EXPECT_FALSE(report.bf16_rope);
}

TEST(VerifyMain, SaysWhatIsWrong) {
  const auto run = [](std::vector<const char*> args) {
    args.insert(args.begin(), "limpet verify");
    return verify_main(static_cast<int>(args.size()), const_cast<char**>(args.data()));
  };
  EXPECT_EQ(run({"--model", "models/limpet-tiny"}), 2);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(run({"--nope"}), 2);
  const std::string error = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(error.starts_with("limpet verify: ")) << error;
  EXPECT_EQ(std::ranges::count(error, '\n'), 1) << error;
  EXPECT_EQ(run({"--model", "models/none", "--golden",
                 "tests/golden/llama-gqa/golden.safetensors"}), 1);
  EXPECT_EQ(run({"--model", "models/limpet-tiny", "--golden",
                 "tests/golden/llama-gqa/golden.safetensors"}), 1);
  EXPECT_EQ(run({"--model", "tests/golden/llama-gqa", "--golden",
                 "tests/golden/llama-gqa/golden.safetensors", "--chunk", "7"}), 0);
}

}  // namespace
}  // namespace limpet::client
