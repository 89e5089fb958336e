// On a GPU the same steps give the same bits: captured or launched one by one, resident or
// computed in one go, in a small or a large bucket of pasts, moved, spilled or not. (Other cuts of
// a prompt and other batches choose other kernels there: the goldens' tolerance covers them.) The
// references' shapes run op by op, but for limpet-tiny's; the random models' on the kernels that
// take several ops at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <tuple>

#include "engine/engine.h"
#include "tests/gpu/gpus.h"
#include "tests/gpu/random_models.h"
#include "tests/gpu/same_bits.h"

namespace limpet::engine {
namespace {

using Logits = std::vector<float>;
struct Subject {
  std::string name;
  Precision precision = Precision::bf16;
  const test::RandomModel* random = nullptr;  // null: a checkpoint
};
void PrintTo(const Subject& s, std::ostream* out) {
  *out << s.name << (s.precision == Precision::f32 ? " f32" : " bf16");
}
using Case = std::tuple<std::string, Subject>;

std::vector<Subject> subjects() {
  std::vector<Subject> all;
  for (const char* name : {"llama-gqa", "qwen2-gqa7", "qwen3-qknorm", "mistral-swa",
                           "limpet-tiny"}) {
    for (const Precision p : {Precision::f32, Precision::bf16}) all.push_back({name, p});
  }
  for (const test::RandomModel& m : test::kRandomModels) {
    all.push_back({std::string("random-") + m.name, Precision::bf16, &m});
  }
  return all;
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
  Logits all = append(e, s, tokens, chunk);
  e.kv().destroy(s);
  return all;
}

// Sequences of different pasts, and then steps of one row of each.
struct SideBySide {
  std::vector<SequenceId> ids{};
  std::vector<std::vector<Token>> tokens{};
};
SideBySide begin_side_by_side(Engine& e, size_t sequences, size_t past) {
  SideBySide all;
  for (size_t i = 0; i < sequences; ++i) {
    all.ids.push_back(e.kv().create(0));
    all.tokens.push_back(text(past + 200, static_cast<Token>(i)));
    append(e, all.ids[i], std::span(all.tokens[i]).first(past - 3 * i), past);
  }
  return all;
}
Logits decode(Engine& e, const SideBySide& all, size_t steps) {
  Logits logits;
  for (size_t step = 0; step < steps; ++step) {
    std::vector<StepRow> rows;
    for (size_t i = 0; i < all.ids.size(); ++i) {
      const auto at = static_cast<size_t>(e.kv().length(all.ids[i]));
      EXPECT_TRUE(e.kv().reserve(all.ids[i], 1));
      rows.push_back({all.ids[i], std::span(all.tokens[i]).subspan(at, 1), Want::last});
    }
    const StepResult r = e.step(rows);
    EXPECT_TRUE(r.ok()) << r.error;
    logits.insert(logits.end(), r.values.begin(), r.values.end());
  }
  return logits;
}

class GpuSelfConsistency : public ::testing::TestWithParam<Case> {
 protected:
  EngineOptions options() const {
    EngineOptions o;
    o.device = std::get<0>(GetParam());
    o.precision = subject().precision;
    o.kv_pages = 96;
    o.max_rows = 256;
    o.share_prefixes = false;
    return o;
  }
  std::unique_ptr<Engine> open(EngineOptions o) const {
    if (subject().random != nullptr) return test::open_random(*subject().random, o);
    const std::string& name = subject().name;
    o.model_dir = name == "limpet-tiny" ? "models/limpet-tiny" : "tests/golden/" + name;
    return Engine::open(o);
  }
  std::unique_ptr<Engine> open() const { return open(options()); }
  // Otherwise the test has not shown what it is there for.
  void expect_kernels(const Engine& e) const {
    if (subject().random == nullptr) return;
    EXPECT_EQ(e.counters().fused_programs > 0, test::is_fused(*subject().random, e))
        << e.counters().fused_programs << " of " << e.counters().compiles << " programs are fused";
  }

 private:
  const Subject& subject() const { return std::get<1>(GetParam()); }
};

TEST_P(GpuSelfConsistency, CapturedIsEager) {
  auto o = options();
  const auto captured = open(o);
  o.graphs = false;
  const auto eager = open(o);
  const auto tokens = text(100);
  const int64_t vocab = captured->info().vocab;
  for (const size_t chunk : {1, 7, 33, 90}) {
    EXPECT_TRUE(test::same_bits(fresh(*captured, tokens, chunk), fresh(*eager, tokens, chunk),
                                vocab))
        << "in chunks of " << chunk;
  }
  for (const size_t n : {3, 20}) {
    const auto a = begin_side_by_side(*captured, n, 64), b = begin_side_by_side(*eager, n, 64);
    EXPECT_TRUE(test::same_bits(decode(*captured, a, 5), decode(*eager, b, 5), vocab))
        << n << " sequences side by side";
    for (const SequenceId id : a.ids) captured->kv().destroy(id);
    for (const SequenceId id : b.ids) eager->kv().destroy(id);
  }
  const EngineCounters c = captured->counters(), e = eager->counters();
  EXPECT_EQ(c.graph_launches, c.steps);
  EXPECT_EQ(c.eager_runs, 0);
  EXPECT_EQ(c.captures, c.compiles);  // the same program is never captured twice
  EXPECT_EQ(e.graph_launches, 0);
  EXPECT_EQ(e.eager_runs, e.steps);
  expect_kernels(*captured);
  expect_kernels(*eager);
}

// Turn 2 is one go, of the same chunks.
TEST_P(GpuSelfConsistency, TheSameChunkingIsTheSame) {
  const auto e = open();
  const auto tokens = text(96);
  const Logits whole = fresh(*e, tokens, 32);
  const SequenceId s = e->kv().create(0);
  Logits turns = append(*e, s, std::span(tokens).first(64), 32);
  fresh(*e, text(40, 3), 40);  // others come and go in between
  const Logits second = append(*e, s, std::span(tokens).subspan(64), 32);
  turns.insert(turns.end(), second.begin(), second.end());
  EXPECT_TRUE(test::same_bits(turns, whole, e->info().vocab));
  expect_kernels(*e);
}

// Decoded in two turns, with others in between, as in one.
TEST_P(GpuSelfConsistency, DecodingGoesOnAsIfNothingHadBeen) {
  const auto e = open();
  for (const size_t n : {1, 5}) {
    const auto one = begin_side_by_side(*e, n, 40), two = begin_side_by_side(*e, n, 40);
    const Logits whole = decode(*e, one, 12);
    Logits turns = decode(*e, two, 7);
    fresh(*e, text(70, 3), 70);
    const Logits second = decode(*e, two, 5);
    turns.insert(turns.end(), second.begin(), second.end());
    EXPECT_TRUE(test::same_bits(turns, whole, e->info().vocab)) << n << " sequences";
  }
  expect_kernels(*e);
}

TEST_P(GpuSelfConsistency, ABucketCrossedIsNeverCrossedAndMovesNothing) {
  auto o = options();
  const auto many = open(o);
  o.buckets.past = LadderKind::single;
  const auto one = open(o);
  for (const size_t n : {1, 3}) {  // 3: in a bucket of 4 rows
    const auto a = begin_side_by_side(*many, n, 60), b = begin_side_by_side(*one, n, 60);
    const EngineCounters before = many->counters();
    const Logits crossed = decode(*many, a, 90);
    const EngineCounters after = many->counters();
    EXPECT_GT(after.compiles, before.compiles + 1) << "no bucket was crossed";
    EXPECT_EQ(after.kv_bytes_moved + after.kv_bytes_up + after.kv_bytes_down, 0);
    EXPECT_EQ(after.weight_bytes_up, before.weight_bytes_up);
    EXPECT_TRUE(test::same_bits(crossed, decode(*one, b, 90), many->info().vocab))
        << "rows of " << n << " sequences, step by step";
  }
  // Runs of a sequence's rows, whose pasts are in another bucket than those of the run before.
  const auto tokens = text(320);
  EXPECT_TRUE(test::same_bits(fresh(*many, tokens, 50), fresh(*one, tokens, 50),
                              many->info().vocab));
  expect_kernels(*many);
  expect_kernels(*one);
}

TEST_P(GpuSelfConsistency, RewindForkAndInstallContinueAsIfFresh) {
  const auto e = open(), there = open();
  const int64_t vocab = e->info().vocab;
  const auto a = text(48), b = text(32, 5);
  const SequenceId s = e->kv().create(0);
  append(*e, s, a, 16);
  const SequenceId twin = e->kv().fork(s, 27);
  const Logits expected = append(*e, twin, b, 16);
  EXPECT_GT(e->counters().kv_bytes_moved, 0);  // the shared last page
  e->kv().truncate(s, 27);
  const SequenceId moved = there->kv().create(0);
  ASSERT_EQ(there->install(moved, std::span(a).first(27), e->sync_to_host(s)), "");
  EXPECT_TRUE(test::same_bits(append(*there, moved, b, 16), expected, vocab)) << "installed";
  EXPECT_TRUE(test::same_bits(append(*e, s, b, 16), expected, vocab)) << "rewound";
  expect_kernels(*e);
}

void wait(Engine& e, uint64_t number) {
  while (!e.moves_done(number)) std::this_thread::sleep_for(std::chrono::microseconds(50));
}

// Down from a fork, and up into other pages, each beside steps: as a worker's tiers do it.
TEST_P(GpuSelfConsistency, SpilledIsNeverSpilled) {
  const auto e = open();
  e->make_host_pages(20);
  const auto before = text(150), after = text(24, 3);
  const SequenceId stayed = e->kv().create(0), s = e->kv().create(0);
  for (const SequenceId id : {stayed, s}) append(*e, id, before, 50);
  const Logits expected = append(*e, stayed, std::span(after).first(8), 8);
  const Logits decoded = append(*e, stayed, std::span(after).subspan(8), 1);

  const SequenceId fork = e->kv().fork(s, std::ssize(before));
  e->kv().destroy(s);
  std::vector<HostMove> down;
  int32_t host = 19;  // from behind, no two of them neighbours
  for (const int32_t page : e->kv().page_table(fork)) down.push_back({page, host}), host -= 2;
  ASSERT_EQ(down.size(), 10u);
  const uint64_t spill = e->begin_moves(false, down);
  fresh(*e, text(60, 7), 20);
  wait(*e, spill);
  const std::vector<std::byte> scribble(static_cast<size_t>(e->info().page_bytes), std::byte{0x3f});
  for (const HostMove& m : down) e->write_page(m.pool_page, scribble);
  e->kv().destroy(fork);
  const SequenceId taker = e->kv().create(0);  // of some of those pages
  append(*e, taker, text(45, 2), 45);

  const SequenceId back = e->kv().create(0);
  ASSERT_TRUE(e->kv().reserve(back, std::ssize(before)));
  std::vector<HostMove> up;
  for (size_t i = 0; i < down.size(); ++i) {
    up.push_back({e->kv().page_table(back)[i], down[i].host_page});
  }
  const uint64_t restore = e->begin_moves(true, up);
  append(*e, taker, text(30, 4), 1);
  wait(*e, restore);
  e->kv().commit(back, before);
  const int64_t vocab = e->info().vocab;
  EXPECT_TRUE(test::same_bits(append(*e, back, std::span(after).first(8), 8), expected, vocab));
  EXPECT_TRUE(test::same_bits(append(*e, back, std::span(after).subspan(8), 1), decoded, vocab));
  expect_kernels(*e);
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const auto& [device, subject] = info.param;
  std::string text = device + "_" + subject.name;
  text += subject.precision == Precision::f32 ? "_f32" : "_bf16";
  std::ranges::replace_if(text, [](char c) { return c == '-' || c == ':'; }, '_');
  return text;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuSelfConsistency);
INSTANTIATE_TEST_SUITE_P(Models, GpuSelfConsistency,
                         ::testing::Combine(::testing::ValuesIn(test::gpus()),
                                            ::testing::ValuesIn(subjects())),
                         name_of);

}  // namespace
}  // namespace limpet::engine
