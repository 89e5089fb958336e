// On a GPU the same steps give the same bits: captured or launched one by one, resident or
// computed in one go, in a small or a large bucket of pasts, moved or not. (Other cuts of a prompt
// and other batches choose other kernels there: the goldens' tolerance covers them.)
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "engine/engine.h"
#include "tests/gpu/gpus.h"

namespace limpet::engine {
namespace {

using Logits = std::vector<float>;
using Case = std::tuple<std::string, std::string, Precision>;

std::vector<Token> text(size_t n, Token salt = 0) {
  std::vector<Token> tokens(n);
  for (size_t i = 0; i < n; ++i) {
    tokens[i] = static_cast<Token>((i * 37 + static_cast<size_t>(salt) * 101 + 11) % 380);
  }
  return tokens;
}

// Appends `tokens` in steps of `chunk` and returns the logits of every row.
Logits append(Engine& e, SequenceId s, std::span<const Token> tokens, size_t chunk) {
  Logits all;
  for (size_t at = 0; at < tokens.size(); at += chunk) {
    const auto part = tokens.subspan(at, std::min(chunk, tokens.size() - at));
    EXPECT_TRUE(e.kv().reserve(s, std::ssize(part)));
    const StepResult r = e.step({{s, part, Want::all}});
    EXPECT_TRUE(r.ok()) << r.error;
    all.insert(all.end(), r.values.begin(), r.values.end());
  }
  return all;
}

Logits fresh(Engine& e, std::span<const Token> tokens, size_t chunk) {
  const SequenceId s = e.kv().create(0);
  Logits all = append(e, s, tokens, chunk);
  e.kv().destroy(s);
  return all;
}

class GpuSelfConsistency : public ::testing::TestWithParam<Case> {
 protected:
  EngineOptions options() const {
    EngineOptions o;
    const std::string& name = std::get<1>(GetParam());
    o.model_dir = name == "limpet-tiny" ? "models/limpet-tiny" : "tests/golden/" + name;
    o.device = std::get<0>(GetParam());
    o.precision = std::get<2>(GetParam());
    o.kv_pages = 96;
    o.max_rows = 256;
    o.share_prefixes = false;
    return o;
  }
};

TEST_P(GpuSelfConsistency, CapturedIsEager) {
  auto o = options();
  const auto captured = Engine::open(o);
  o.graphs = false;
  const auto eager = Engine::open(o);
  const auto tokens = text(70);
  for (const size_t chunk : {1, 7, 33}) {
    EXPECT_EQ(fresh(*captured, tokens, chunk), fresh(*eager, tokens, chunk)) << chunk;
  }
  const EngineCounters c = captured->counters(), e = eager->counters();
  EXPECT_EQ(c.graph_launches, c.steps);
  EXPECT_EQ(c.eager_runs, 0);
  EXPECT_EQ(c.captures, c.compiles);  // the same program is never captured twice
  EXPECT_EQ(e.graph_launches, 0);
  EXPECT_EQ(e.eager_runs, e.steps);
}

TEST_P(GpuSelfConsistency, TheSameChunkingIsTheSame) {
  const auto e = Engine::open(options());
  const auto tokens = text(96);
  const Logits whole = fresh(*e, tokens, 32);
  const SequenceId s = e->kv().create(0);
  Logits turns = append(*e, s, std::span(tokens).first(64), 32);
  fresh(*e, text(40, 3), 40);  // others come and go in between
  const Logits second = append(*e, s, std::span(tokens).subspan(64), 32);
  turns.insert(turns.end(), second.begin(), second.end());
  EXPECT_EQ(turns, whole);
}

TEST_P(GpuSelfConsistency, ABucketCrossedIsNeverCrossedAndMovesNothing) {
  auto o = options();
  const auto many = Engine::open(o);
  o.buckets.past = LadderKind::single;
  const auto one = Engine::open(o);
  const auto tokens = text(150);
  const SequenceId s = many->kv().create(0);
  Logits all = append(*many, s, std::span(tokens).first(60), 60);
  const EngineCounters before = many->counters();
  const Logits decoded = append(*many, s, std::span(tokens).subspan(60), 1);
  const EngineCounters after = many->counters();
  all.insert(all.end(), decoded.begin(), decoded.end());
  EXPECT_GT(after.compiles, before.compiles + 1) << "no bucket was crossed";
  EXPECT_EQ(after.kv_bytes_moved + after.kv_bytes_up + after.kv_bytes_down, 0);
  EXPECT_EQ(after.weight_bytes_up, before.weight_bytes_up);
  const SequenceId t = one->kv().create(0);
  Logits expected = append(*one, t, std::span(tokens).first(60), 60);
  const Logits rest = append(*one, t, std::span(tokens).subspan(60), 1);
  expected.insert(expected.end(), rest.begin(), rest.end());
  EXPECT_EQ(all, expected);
}

TEST_P(GpuSelfConsistency, RewindForkAndInstallContinueAsIfFresh) {
  const auto e = Engine::open(options()), there = Engine::open(options());
  const auto a = text(48), b = text(32, 5);
  const SequenceId s = e->kv().create(0);
  append(*e, s, a, 16);
  const SequenceId twin = e->kv().fork(s, 27);
  const Logits expected = append(*e, twin, b, 16);
  EXPECT_GT(e->counters().kv_bytes_moved, 0);  // the shared last page
  e->kv().truncate(s, 27);
  const SequenceId moved = there->kv().create(0);
  ASSERT_EQ(there->install(moved, std::span(a).first(27), e->sync_to_host(s)), "");
  EXPECT_EQ(append(*there, moved, b, 16), expected);
  EXPECT_EQ(append(*e, s, b, 16), expected);
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  std::string text = std::get<0>(info.param) + "_" + std::get<1>(info.param);
  text += std::get<2>(info.param) == Precision::f32 ? "_f32" : "_bf16";
  std::ranges::replace_if(text, [](char c) { return c == '-' || c == ':'; }, '_');
  return text;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuSelfConsistency);
INSTANTIATE_TEST_SUITE_P(Models, GpuSelfConsistency,
                         ::testing::Combine(::testing::ValuesIn(test::gpus()),
                                            ::testing::Values("llama-gqa", "qwen2-gqa7",
                                                              "qwen3-qknorm", "mistral-swa",
                                                              "limpet-tiny"),
                                            ::testing::Values(Precision::f32, Precision::bf16)),
                         name_of);

}  // namespace
}  // namespace limpet::engine
