#include "engine/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace limpet::engine {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

SamplingOptions with(float temperature, uint64_t seed = 1) {
  SamplingOptions o;
  o.temperature = temperature;
  o.seed = seed;
  return o;
}

std::vector<float> random_logits(size_t n, uint64_t seed, float scale = 2.0f) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> logits(n);
  for (float& l : logits) l = normal(random);
  return logits;
}

// The distribution that the options define, slowly and in double precision.
std::vector<double> reference(const std::vector<float>& logits, const SamplingOptions& o) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < order.size()) {
    order.resize(static_cast<size_t>(o.top_k));
  }
  std::vector<double> p(logits.size(), 0.0);
  double total = 0;
  for (size_t i : order) {
    total += p[i] = std::exp((static_cast<double>(logits[i]) - logits[order[0]]) / o.temperature);
  }
  double sum = 0;
  size_t keep = 0;
  while (keep < order.size() && (keep == 0 || sum < o.top_p * total)) sum += p[order[keep++]];
  for (size_t i = 0; i < order.size(); ++i) {
    if (i >= keep || p[order[i]] < o.min_p * p[order[0]]) p[order[i]] = 0;
  }
  total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& v : p) v /= total;
  return p;
}

// Draws at 40,000 positions; chi-square against the reference (seeds are fixed, so it cannot flap).
void expect_distribution(const std::vector<float>& logits, const SamplingOptions& o) {
  constexpr int kDraws = 40'000;
  const std::vector<double> p = reference(logits, o);
  std::vector<int> seen(logits.size(), 0);
  for (int i = 0; i < kDraws; ++i) {
    const Sampled s = sample(logits, {}, o, i);
    ASSERT_TRUE(s.ok()) << s.error;
    ++seen[static_cast<size_t>(s.token)];
  }
  double chi = 0, rare_want = 0, rare_seen = 0;
  int cells = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double want = p[i] * kDraws;
    if (p[i] == 0) {
      EXPECT_EQ(seen[i], 0) << "token " << i << " should have been filtered out";
    } else if (want < 10) {
      rare_want += want;
      rare_seen += seen[i];
    } else {
      chi += (seen[i] - want) * (seen[i] - want) / want;
      ++cells;
    }
  }
  if (rare_want >= 10) {
    chi += (rare_seen - rare_want) * (rare_seen - rare_want) / rare_want;
    ++cells;
  }
  const double freedom = std::max(1, cells - 1);
  EXPECT_LT(chi, freedom + 5 * std::sqrt(2 * freedom)) << cells << " cells";
}

TEST(Sampling, DrawsFollowTheDistribution) {
  const std::vector<float> logits = random_logits(60, 1);
  for (float temperature : {0.5f, 1.0f, 2.5f}) expect_distribution(logits, with(temperature, 9));
  SamplingOptions o = with(1.0f, 10);
  o.top_k = 7;
  expect_distribution(logits, o);
  o.top_p = 0.8f;
  expect_distribution(logits, o);
  o.top_k = 0;
  expect_distribution(logits, o);
  o.top_p = 1.0f;
  o.min_p = 0.1f;
  expect_distribution(logits, o);
  o.top_p = 0.95f;
  o.top_k = 30;
  expect_distribution(logits, o);
}

TEST(Sampling, FiltersKeepWhatTheirDefinitionKeeps) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 60; ++round) {
    // Large rows, flat ones too: the partial selection is at work.
    const size_t n = round % 3 == 0 ? 20'000 : 300;
    std::vector<float> logits = random_logits(n, random(), round % 2 == 0 ? 0.2f : 3.0f);
    for (size_t i = 0; i + 1 < n; i += 7) logits[i + 1] = logits[i];  // ties
    SamplingOptions o = with(0.7f, random());
    if (round % 4 != 0) o.top_p = std::uniform_real_distribution<float>(0.01f, 0.999f)(random);
    if (round % 5 == 0) o.top_k = 1 + static_cast<int32_t>(random() % (round % 10 == 0 ? n : 40));
    if (round % 6 == 0) o.min_p = 0.05f;
    const std::vector<double> p = reference(logits, o);
    for (int64_t position = 0; position < 50; ++position) {
      EXPECT_GT(p[static_cast<size_t>(sample(logits, {}, o, position).token)], 0.0);
    }
  }
}

TEST(Sampling, GreedyTakesTheLowestOfEquals) {
  const std::vector<float> logits{0, 3, 1, 3, 3};
  EXPECT_EQ(sample(logits, {}, with(0.0f), 5).token, 1);
  SamplingOptions o = with(1.0f);
  o.top_k = 1;  // and so does a selection of one
  for (int64_t p = 0; p < 20; ++p) EXPECT_EQ(sample(logits, {}, o, p).token, 1);
  o.top_k = 2;
  for (int64_t p = 0; p < 40; ++p) EXPECT_NE(sample(logits, {}, o, p).token, 4);
}

TEST(Sampling, ADrawIsAFunctionOfSeedAndPosition) {
  const std::vector<float> logits = random_logits(500, 2, 0.5f);
  std::vector<Token> forward, backward, other;
  for (int64_t p = 0; p < 50; ++p) forward.push_back(sample(logits, {}, with(1.0f, 77), p).token);
  for (int64_t p = 49; p >= 0; --p) backward.push_back(sample(logits, {}, with(1.0f, 77), p).token);
  for (int64_t p = 0; p < 50; ++p) other.push_back(sample(logits, {}, with(1.0f, 78), p).token);
  std::reverse(backward.begin(), backward.end());
  EXPECT_EQ(forward, backward);
  EXPECT_NE(forward, other);
}

TEST(Sampling, PhiloxAsPublished) {
  // Random123's known answers for philox4x32-10: the first two words of each.
  const auto words = [](uint32_t a, uint32_t b) {
    return static_cast<double>(((static_cast<uint64_t>(a) << 32) | b) >> 11) * 0x1p-53;
  };
  EXPECT_EQ(uniform_draw(0, 0), words(0x6627e8d5, 0xe169c58d));
  double sum = 0;
  for (int64_t p = 0; p < 10'000; ++p) {
    const double u = uniform_draw(3, p);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 10'000, 0.5, 0.01);
}

TEST(Sampling, PenaltyMovesTokensOfTheContextOnce) {
  const std::vector<float> logits{2.0f, 1.9f, -1.0f, -1.1f};
  SamplingOptions o;
  o.repetition_penalty = 1.2f;
  const std::vector<Token> context{0, 0, 0, -5, 99};  // what is not in the vocabulary is ignored
  EXPECT_EQ(sample(logits, context, o, 0).token, 1);  // 2.0 / 1.2 < 1.9
  const std::vector<Token> all{0, 1};
  EXPECT_EQ(sample(logits, all, o, 0).token, 0);
  const std::vector<float> negative{-1.0f, -1.1f};
  EXPECT_EQ(sample(negative, std::vector<Token>{0}, o, 0).token, 1);  // -1.0 × 1.2 < -1.1
  EXPECT_EQ(sample(logits, {}, o, 0).token, 0);
}

TEST(Sampling, LogprobsAreTheModelsOwn) {
  const std::vector<float> logits = random_logits(200, 8);
  SamplingOptions o = with(3.0f, 5);
  o.repetition_penalty = 1.5f;
  o.top_k = 50;
  o.logprobs = 4;
  const std::vector<double> p = reference(logits, with(1.0f));
  const std::vector<Token> context{1, 2, 3};
  const Sampled s = sample(logits, context, o, 12);
  EXPECT_NEAR(s.logprob, std::log(p[static_cast<size_t>(s.token)]), 1e-4);
  ASSERT_EQ(s.top.size(), 4u);
  for (size_t i = 0; i < s.top.size(); ++i) {
    EXPECT_NEAR(s.top[i].logprob, std::log(p[static_cast<size_t>(s.top[i].token)]), 1e-4);
    if (i > 0) {
      EXPECT_GE(s.top[i - 1].logprob, s.top[i].logprob);
    }
  }
  o.logprobs = 0;
  EXPECT_TRUE(sample(logits, {}, o, 0).top.empty());
  EXPECT_LT(sample(logits, {}, o, 0).logprob, 0.0f);
}

TEST(Sampling, RowsThatCannotBeSampledAreErrors) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (float temperature : {0.0f, 1.0f}) {
    const SamplingOptions o = with(temperature);
    EXPECT_FALSE(sample(std::vector<float>{1, nan, 2}, {}, o, 0).ok());
    EXPECT_FALSE(sample(std::vector<float>{nan}, {}, o, 0).ok());
    EXPECT_FALSE(sample(std::vector<float>{1, kInf}, {}, o, 0).ok());
    EXPECT_FALSE(sample(std::vector<float>{-kInf, -kInf}, {}, o, 0).ok());
    EXPECT_FALSE(sample({}, {}, o, 0).ok());
    EXPECT_EQ(sample(std::vector<float>{-kInf, -3, -kInf}, {}, o, 0).token, 1);
  }
}

TEST(Sampling, ExtremesStayInBounds) {
  const std::vector<float> logits{3e38f, -3e38f, 1.0f};
  for (float temperature : {1e-30f, 1e-45f, 1e-6f, 100.0f}) {
    const Sampled s = sample(logits, {}, with(temperature), 3);
    EXPECT_EQ(s.token, 0);
  }
  SamplingOptions o = with(1.0f);
  o.repetition_penalty = 0.01f;
  o.logprobs = 2;
  EXPECT_EQ(sample(logits, std::vector<Token>{0, 1, 2}, o, 3).token, 0);
  SamplingOptions narrow = with(1.0f);
  narrow.top_p = 1e-30f;
  narrow.min_p = 1.0f;
  narrow.top_k = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(sample(logits, {}, narrow, std::numeric_limits<int64_t>::max()).token, 0);
}

TEST(Sampling, OptionsAreValidated) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto refused = [](auto change) {
    SamplingOptions o;
    change(o);
    return !validate(o).empty();
  };
  EXPECT_EQ(validate(SamplingOptions{}), "");
  for (float bad : {-0.1f, nan, kInf}) {
    EXPECT_TRUE(refused([&](auto& o) { o.temperature = bad; }));
    EXPECT_TRUE(refused([&](auto& o) { o.top_p = bad; }));
    EXPECT_TRUE(refused([&](auto& o) { o.min_p = bad; }));
    EXPECT_TRUE(refused([&](auto& o) { o.repetition_penalty = bad; }));
  }
  EXPECT_TRUE(refused([](auto& o) { o.top_p = 0; }));
  EXPECT_TRUE(refused([](auto& o) { o.top_p = 1.01f; }));
  EXPECT_TRUE(refused([](auto& o) { o.min_p = 1.01f; }));
  EXPECT_TRUE(refused([](auto& o) { o.top_k = -1; }));
  EXPECT_TRUE(refused([](auto& o) { o.repetition_penalty = 0; }));
  EXPECT_TRUE(refused([](auto& o) { o.logprobs = 21; }));
  EXPECT_TRUE(refused([](auto& o) { o.logprobs = -2; }));
}

}  // namespace
}  // namespace limpet::engine
