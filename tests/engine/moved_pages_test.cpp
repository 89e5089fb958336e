// Migrated is stayed: pages that another engine has computed give the same bits.
#include <gtest/gtest.h>

#include "engine/engine.h"

namespace limpet::engine {
namespace {

EngineOptions options_of(const std::string& model, Precision precision) {
  EngineOptions o;
  o.model_dir = model;
  o.precision = precision;
  o.kv_pages = 64;
  o.threads = 1;
  return o;
}

std::vector<Token> text(int64_t n) {
  std::vector<Token> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>((i * 37 + 11) % 380));
  return tokens;
}

std::vector<float> append(Engine& e, SequenceId s, std::span<const Token> tokens) {
  EXPECT_TRUE(e.kv().reserve(s, std::ssize(tokens)));
  const StepResult r = e.step({{s, tokens, Want::all}});
  EXPECT_TRUE(r.ok()) << r.error;
  return {r.values.begin(), r.values.end()};
}

// Page by page as a hand-over does it, to whatever pages are free there.
SequenceId move(Engine& from, SequenceId s, Engine& to) {
  const SequenceId copy = to.kv().create(0);
  const auto tokens = from.kv().tokens(s);
  const int64_t rows = from.kv().page_tokens();
  for (int64_t at = 0; at < std::ssize(tokens); at += rows) {
    const auto part = tokens.subspan(static_cast<size_t>(at),
                                     static_cast<size_t>(std::min(rows, std::ssize(tokens) - at)));
    const auto i = static_cast<size_t>(at / rows);
    std::vector<std::byte> page(static_cast<size_t>(from.info().page_bytes));
    from.read_page(from.kv().page_table(s)[i], page);
    EXPECT_TRUE(to.kv().reserve(copy, std::ssize(part)));
    to.write_page(to.kv().page_table(copy)[i], page);
    to.kv().commit(copy, part);
  }
  return copy;
}

class MovedPages : public testing::TestWithParam<Precision> {};

TEST_P(MovedPages, GiveTheSameBitsAsThoseThatStayed) {
  for (const char* model : {"models/limpet-tiny", "tests/golden/mistral-swa"}) {
    const auto giver = Engine::open(options_of(model, GetParam()));
    const auto receiver = Engine::open(options_of(model, GetParam()));
    ASSERT_EQ(giver->info().kv_layout, receiver->info().kv_layout);
    // So that the pages do not have the same numbers on both sides.
    append(*receiver, receiver->kv().create(0), text(40));
    const std::vector<Token> all = text(100);
    const std::span<const Token> before(all.data(), 75), after(all.data() + 75, 25);
    const SequenceId stayed = giver->kv().create(0);
    append(*giver, stayed, before);
    const SequenceId moved = move(*giver, stayed, *receiver);
    EXPECT_EQ(receiver->kv().length(moved), 75);
    EXPECT_EQ(append(*receiver, moved, after), append(*giver, stayed, after)) << model;
  }
}

INSTANTIATE_TEST_SUITE_P(All, MovedPages, testing::Values(Precision::f32, Precision::bf16));

TEST(MovedPages, AnotherModelOrPrecisionIsAnotherLayout) {
  const auto f32 = Engine::open(options_of("models/limpet-tiny", Precision::f32));
  const auto bf16 = Engine::open(options_of("models/limpet-tiny", Precision::bf16));
  const auto other = Engine::open(options_of("tests/golden/llama-gqa", Precision::f32));
  EXPECT_NE(f32->info().kv_layout, bf16->info().kv_layout);
  EXPECT_NE(f32->info().kv_layout, other->info().kv_layout);
  EXPECT_NE(f32->info().kv_layout, 0u);
  std::vector<std::byte> half(static_cast<size_t>(f32->info().page_bytes / 2));
  EXPECT_THROW(f32->read_page(0, half), std::logic_error);
  EXPECT_THROW(f32->write_page(0, half), std::logic_error);
}

}  // namespace
}  // namespace limpet::engine
