// On a GPU, pages that have been in the host's memory give the bits of pages that never left; moves
// stand behind the steps so far, though nobody waits for them, and steps run beside them.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "engine/engine.h"
#include "tests/gpu/gpus.h"

namespace limpet::engine {
namespace {

std::unique_ptr<Engine> open(const std::string& device, Precision precision) {
  EngineOptions o;
  o.model_dir = "models/limpet-tiny";
  o.device = device;
  o.precision = precision;
  o.kv_pages = 96;
  o.share_prefixes = false;
  return Engine::open(o);
}

std::vector<Token> text(int64_t n, Token salt = 0) {
  std::vector<Token> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>((i * 37 + salt + 11) % 380));
  return tokens;
}

std::vector<float> append(Engine& e, SequenceId s, std::span<const Token> tokens) {
  EXPECT_TRUE(e.kv().reserve(s, std::ssize(tokens)));
  const StepResult r = e.step({{s, tokens, Want::all}});
  EXPECT_TRUE(r.ok()) << r.error;
  return {r.values.begin(), r.values.end()};
}

// Begins a step and does not wait for it.
void submit(Engine& e, SequenceId s, std::span<const Token> tokens) {
  EXPECT_TRUE(e.kv().reserve(s, std::ssize(tokens)));
  const DrawRow row{.sequence = s, .tokens = tokens, .draw = SamplingOptions{},
                    .position = std::ssize(tokens)};
  EXPECT_EQ(e.submit({&row, 1}), "");
}

std::vector<HostMove> moves_of(Engine& e, SequenceId s) {
  std::vector<HostMove> moves;
  int32_t host = 40;  // one by one, from behind: no two are neighbours
  for (const int32_t page : e.kv().page_table(s)) moves.push_back({page, host--});
  return moves;
}

void wait(Engine& e, uint64_t number) {
  while (!e.moves_done(number)) std::this_thread::sleep_for(std::chrono::microseconds(50));
}

void scribble(Engine& e, SequenceId s) {
  const std::vector<std::byte> bytes(static_cast<size_t>(e.info().page_bytes), std::byte{0x3f});
  for (const int32_t page : e.kv().page_table(s)) e.write_page(page, bytes);
}

TEST(GpuMoves, SpilledIsNeverSpilledBesideSteps) {
  for (const std::string& device : test::gpus(true)) {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      const auto e = open(device, precision), undisturbed = open(device, precision);
      e->make_host_pages(41);
      const auto before = text(475), after = text(25, 3);
      const SequenceId s = e->kv().create(0), stayed = undisturbed->kv().create(0);
      append(*undisturbed, stayed, before);
      const auto expected = append(*undisturbed, stayed, after);

      const int32_t keep[] = {0};
      submit(*e, s, before);  // in flight while its pages are told to go down
      const uint64_t down = e->begin_moves(false, moves_of(*e, s));
      e->collect(keep);
      const SequenceId beside = e->kv().create(0);
      append(*e, beside, text(200, 7));
      wait(*e, down);
      scribble(*e, s);
      const uint64_t up = e->begin_moves(true, moves_of(*e, s));
      append(*e, beside, text(60, 9));
      wait(*e, up);
      EXPECT_EQ(append(*e, s, after), expected) << device;
      EXPECT_EQ(e->counters().kv_bytes_down, 30 * e->info().page_bytes);
      EXPECT_EQ(e->counters().kv_bytes_up, 60 * e->info().page_bytes) << "30 were scribbled";
    }
  }
}

TEST(GpuMoves, MoreHostMemoryThanThereIsIsSaid) {
  for (const std::string& device : test::gpus()) {
    const auto e = open(device, Precision::bf16);
    try {
      e->make_host_pages((int64_t{1} << 50) / e->info().page_bytes);
      FAIL() << "a pebibyte of pinned memory";
    } catch (const std::runtime_error& error) {
      EXPECT_NE(std::string(error.what()).find("host memory for KV"), std::string::npos);
    }
    EXPECT_FALSE(append(*e, e->kv().create(0), text(20)).empty()) << "the engine goes on";
  }
}

}  // namespace
}  // namespace limpet::engine
