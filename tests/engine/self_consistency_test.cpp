// The same tokens give the same bits, however they came to be resident.
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "engine/engine.h"

namespace limpet::engine {
namespace {

using Logits = std::vector<float>;

EngineOptions options_of(const std::string& model, Precision precision) {
  EngineOptions o;
  o.model_dir = model;
  o.precision = precision;
  o.kv_pages = 96;
  o.max_rows = 256;
  o.threads = 2;
  o.share_prefixes = false;
  return o;
}

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
  const Logits all = append(e, s, tokens, chunk);
  e.kv().destroy(s);
  return all;
}

// The logits of the last `n` rows.
Logits last(const Engine& e, const Logits& all, size_t n) {
  return {all.end() - static_cast<int64_t>(n) * e.info().vocab, all.end()};
}

using Case = std::tuple<const char*, Precision>;
class SelfConsistency : public ::testing::TestWithParam<Case> {
 protected:
  std::string model() const {
    const std::string name = std::get<0>(GetParam());
    return name == "limpet-tiny" ? "models/limpet-tiny" : "tests/golden/" + name;
  }
  EngineOptions options() const { return options_of(model(), std::get<1>(GetParam())); }
  std::unique_ptr<Engine> open() const { return Engine::open(options()); }
};

TEST_P(SelfConsistency, ChunkedIsWhole) {
  const auto e = open();
  const auto tokens = text(70);
  const Logits whole = fresh(*e, tokens, 70);
  for (const size_t chunk : {1, 7, 16, 33}) EXPECT_EQ(fresh(*e, tokens, chunk), whole) << chunk;
}

TEST_P(SelfConsistency, SecondTurnOnResidentKvIsOneGo) {
  const auto e = open();
  const auto tokens = text(90);
  const Logits whole = fresh(*e, tokens, 90);
  const SequenceId s = e->kv().create(0);
  append(*e, s, std::span(tokens).first(53), 53);
  fresh(*e, text(40, 3), 40);  // others come and go in between
  EXPECT_EQ(append(*e, s, std::span(tokens).subspan(53), 37), last(*e, whole, 37));
  EXPECT_EQ(e->kv().length(s), 90);
}

TEST_P(SelfConsistency, InABatchIsAlone) {
  const auto e = open();
  const auto tokens = text(61);
  const Logits alone = fresh(*e, tokens, 61);
  std::vector<SequenceId> others;
  for (int i = 0; i < 4; ++i) {
    others.push_back(e->kv().create(0));
    append(*e, others.back(), text(static_cast<size_t>(3 + 17 * i), i), 64);
  }
  const SequenceId s = e->kv().create(0);
  Logits mixed;
  for (size_t at = 0; at < tokens.size();) {
    const size_t n = std::min<size_t>(1 + at % 9, tokens.size() - at);
    const auto part = std::span(tokens).subspan(at, n);
    const auto noise = text(2, static_cast<Token>(at));
    std::vector<StepRow> rows = {{others[0], noise, Want::last}, {others[1], noise, Want::all},
                                 {s, part, Want::all},           {others[2], noise, Want::nothing},
                                 {others[3], noise, Want::last}};
    for (const StepRow& r : rows) ASSERT_TRUE(e->kv().reserve(r.sequence, std::ssize(r.tokens)));
    const StepResult r = e->step(rows);
    ASSERT_TRUE(r.ok()) << r.error;
    EXPECT_EQ(r.rows, static_cast<int64_t>(n) + 4);
    EXPECT_EQ(r.first, (std::vector<int64_t>{0, 1, 3, 3 + std::ssize(part), r.rows - 1}));
    const auto values = r.values.subspan(static_cast<size_t>(3 * r.width), n *
                                         static_cast<size_t>(r.width));
    mixed.insert(mixed.end(), values.begin(), values.end());
    at += n;
  }
  EXPECT_EQ(mixed, alone);
}

TEST_P(SelfConsistency, ABucketCrossedIsNeverCrossedAndMovesNothing) {
  auto single = options();
  single.buckets = {LadderKind::single, LadderKind::single};
  const auto one = Engine::open(single), many = open();
  const auto tokens = text(150);
  const SequenceId s = many->kv().create(0);
  const Logits prompt = append(*many, s, std::span(tokens).first(60), 60);
  const EngineCounters before = many->counters();
  const auto bound = many->binding().upper(ProgramKind::decode);
  Logits decoded;
  int64_t least = 1 << 30, most = 0;  // bytes up of a decode step
  for (size_t at = 60; at < tokens.size(); ++at) {
    const int64_t up = many->counters().bytes_up;
    const Logits row = append(*many, s, std::span(tokens).subspan(at, 1), 1);
    decoded.insert(decoded.end(), row.begin(), row.end());
    least = std::min(least, many->counters().bytes_up - up);
    most = std::max(most, many->counters().bytes_up - up);
  }
  const EngineCounters after = many->counters();
  EXPECT_GT(after.compiles, before.compiles + 1) << "no bucket was crossed";
  EXPECT_GT(many->binding().upper(ProgramKind::decode), bound);
  EXPECT_EQ(after.kv_bytes_moved, 0);
  EXPECT_EQ(after.kv_bytes_up + after.kv_bytes_down, 0);
  EXPECT_EQ(after.weight_bytes_up, many->info().weight_bytes);
  EXPECT_GT(least, 0);
  EXPECT_LE(most - least, 4 * 96);  // the page table may have grown; no weight went up
  EXPECT_EQ(after.bytes_down - before.bytes_down, 4 * std::ssize(decoded));
  Logits all = prompt;
  all.insert(all.end(), decoded.begin(), decoded.end());
  EXPECT_EQ(all, fresh(*one, tokens, 150));
  EXPECT_EQ(one->counters().compiles, 1);
}

TEST_P(SelfConsistency, RewindAndForkContinueAsIfFresh) {
  const auto e = open();
  const auto a = text(50), b = text(30, 5);
  std::vector<Token> joined(a.begin(), a.begin() + 27);
  joined.insert(joined.end(), b.begin(), b.end());
  const Logits expected = last(*e, fresh(*e, joined, 57), 30);
  const Logits straight = fresh(*e, a, 50);

  const SequenceId s = e->kv().create(0);
  append(*e, s, std::span(a).first(40), 40);
  const SequenceId twin = e->kv().fork(s, 27);
  EXPECT_EQ(append(*e, twin, b, 30), expected);
  EXPECT_GT(e->counters().kv_bytes_moved, 0);  // the shared last page
  EXPECT_EQ(append(*e, s, std::span(a).subspan(40), 10), last(*e, straight, 10));
  e->kv().truncate(s, 27);
  EXPECT_EQ(append(*e, s, b, 4), expected);
}

TEST_P(SelfConsistency, ASharedPrefixIsAComputedOne) {
  auto o = options();
  o.share_prefixes = true;
  const auto sharing = Engine::open(o), plain = open();
  const auto tokens = text(75);
  const Logits expected = fresh(*plain, tokens, 75);
  const SequenceId first = sharing->kv().create(1), second = sharing->kv().create(1);
  append(*sharing, first, tokens, 75);
  ASSERT_EQ(sharing->kv().adopt_prefix(second, tokens), 64);
  const Logits end = last(*plain, expected, 11);
  EXPECT_EQ(append(*sharing, second, std::span(tokens).subspan(64), 11), end);
  // A destroyed sequence's pages serve the next one.
  sharing->kv().destroy(first);
  sharing->kv().destroy(second);
  const SequenceId third = sharing->kv().create(1);
  ASSERT_EQ(sharing->kv().adopt_prefix(third, tokens), 64);
  EXPECT_EQ(append(*sharing, third, std::span(tokens).subspan(64), 3), end);
}

TEST_P(SelfConsistency, InstalledKvContinuesAsIfItHadStayed) {
  const auto here = open(), there = open();
  const auto tokens = text(80);
  const Logits expected = last(*here, fresh(*here, tokens, 80), 35);
  const SequenceId s = here->kv().create(0);
  append(*here, s, std::span(tokens).first(45), 45);
  HostKv kv = here->sync_to_host(s);
  ASSERT_EQ(kv.rows, 45);
  ASSERT_EQ(std::ssize(kv.layers), here->info().layers);
  EXPECT_EQ(here->read("past_k_1", s), kv.layers[1].k);
  EXPECT_EQ(here->read("past_v_0", s), kv.layers[0].v);

  for (HostKv::Layer& layer : kv.layers) {  // padded up to a bucket, as others hand it over
    layer.k.resize(static_cast<size_t>(64 * kv.kv_dim));
    layer.v.resize(static_cast<size_t>(64 * kv.kv_dim));
  }
  kv.rows = 64;
  const SequenceId moved = there->kv().create(0);
  ASSERT_EQ(there->install(moved, std::span(tokens).first(45), kv), "");
  EXPECT_EQ(there->kv().length(moved), 45);
  EXPECT_EQ(append(*there, moved, std::span(tokens).subspan(45), 35), expected);
  EXPECT_EQ(append(*here, s, std::span(tokens).subspan(45), 6), expected);
  EXPECT_EQ(here->sync_to_host(s).layers[1].k, there->sync_to_host(moved).layers[1].k);
}

TEST_P(SelfConsistency, ThreadsChangeNoBit) {
  auto o = options();
  o.threads = 1;
  const auto one = Engine::open(o);
  o.threads = 3;
  const auto three = Engine::open(o);
  const auto tokens = text(66);
  EXPECT_EQ(fresh(*one, tokens, 66), fresh(*three, tokens, 66));
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  std::string text = std::get<0>(info.param);
  text += std::get<1>(info.param) == Precision::f32 ? "_f32" : "_bf16";
  std::ranges::replace(text, '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(Models, SelfConsistency,
                         ::testing::Combine(::testing::Values("llama-gqa", "qwen2-gqa7",
                                                              "qwen3-qknorm", "mistral-swa",
                                                              "limpet-tiny"),
                                            ::testing::Values(Precision::f32, Precision::bf16)),
                         name_of);

}  // namespace
}  // namespace limpet::engine
