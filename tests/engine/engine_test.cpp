// What the engine promises beyond results: errors as values, what crosses the bus, what compiles.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include <unistd.h>

namespace limpet::engine {
namespace {

EngineOptions tiny() {
  EngineOptions o;
  o.model_dir = "models/limpet-tiny";
  o.kv_pages = 32;
  o.max_rows = 64;
  o.max_sequences = 4;
  o.threads = 1;
  return o;
}

std::vector<Token> some(size_t n) {
  std::vector<Token> tokens(n);
  std::iota(tokens.begin(), tokens.end(), 5);
  return tokens;
}

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() : engine(Engine::open(tiny())), s(engine->kv().create(0)) {}
  StepResult feed(const std::vector<Token>& tokens, Want want = Want::last,
                  ReadBack what = ReadBack::logits) {
    EXPECT_TRUE(engine->kv().reserve(s, std::ssize(tokens)));
    return engine->step({{s, tokens, want}}, what);
  }
  std::unique_ptr<Engine> engine;
  SequenceId s;
};

TEST_F(EngineTest, TellsWhatTheModelIs) {
  const EngineInfo& info = engine->info();
  EXPECT_EQ(info.architecture, "MiMoForCausalLM");
  EXPECT_EQ(info.vocab, 1536);
  EXPECT_EQ(info.max_context, 32 * 16);  // the pool holds less than the model allows
  EXPECT_EQ(info.eos, std::vector<Token>{2});
  EXPECT_EQ(info.prediction_layers, 1);
  EXPECT_EQ(info.page_bytes, 5 * 2 * 2 * 16 * 64 * 2);
  EXPECT_FALSE(info.resident_kv);
  auto other = tiny();
  other.precision = Precision::f32;
  EXPECT_NE(Engine::open(other)->info().fingerprint, info.fingerprint);
  EXPECT_EQ(Engine::open(tiny())->info().fingerprint, info.fingerprint);
}

TEST(EngineOpen, ThePredictionLayerIsLoadedToo) {
  const auto dir = std::filesystem::temp_directory_path() /
                   ("limpet_trunk_" + std::to_string(::getpid()));
  std::filesystem::create_directories(dir);
  auto config = nlohmann::json::parse(std::ifstream("models/limpet-tiny/config.json"));
  config["num_nextn_predict_layers"] = 0;
  std::ofstream(dir / "config.json") << config.dump();
  for (const auto& entry : std::filesystem::directory_iterator("models/limpet-tiny")) {
    if (entry.path().filename() == "config.json") continue;
    std::filesystem::create_symlink(std::filesystem::absolute(entry.path()),
                                    dir / entry.path().filename());
  }
  auto o = tiny();
  const int64_t whole = Engine::open(o)->info().weight_bytes;
  o.model_dir = dir;
  const auto trunk = Engine::open(o);
  EXPECT_EQ(trunk->info().prediction_layers, 0);
  // At least the layer's gate, up and down projections, in bf16.
  EXPECT_GE(whole - trunk->info().weight_bytes,
            2 * 3 * config["hidden_size"].get<int64_t>() *
                config["intermediate_size"].get<int64_t>());
  std::filesystem::remove_all(dir);
}

TEST_F(EngineTest, OnlyWhatIsWantedIsReadBack) {
  const int64_t vocab = engine->info().vocab, hidden = engine->info().hidden;
  auto down = [&, last = int64_t{0}]() mutable {
    const int64_t now = engine->counters().bytes_down;
    return now - std::exchange(last, now);
  };
  EXPECT_EQ(feed(some(20), Want::nothing).rows, 0);
  EXPECT_EQ(down(), 0);
  EXPECT_EQ(feed(some(3), Want::last).row(0).size(), static_cast<size_t>(vocab));
  EXPECT_EQ(down(), 4 * vocab);
  EXPECT_EQ(feed(some(3), Want::all).rows, 3);
  EXPECT_EQ(down(), 3 * 4 * vocab);
  const StepResult h = feed(some(2), Want::all, ReadBack::hidden);
  EXPECT_EQ(h.width, hidden);
  EXPECT_EQ(down(), 2 * 4 * hidden);
  EXPECT_TRUE(std::ranges::any_of(h.values, [](float v) { return v != 0; }));
  EXPECT_EQ(engine->kv().length(s), 28);
}

TEST_F(EngineTest, ADecodeStepSendsUpALittleAndMovesNoKv) {
  feed(some(60));
  const EngineCounters before = engine->counters();
  feed({7});
  const EngineCounters after = engine->counters();
  EXPECT_LT(after.bytes_up - before.bytes_up, 2048);
  EXPECT_GT(after.bytes_up, before.bytes_up);
  EXPECT_EQ(after.kv_bytes_up + after.kv_bytes_down + after.kv_bytes_moved, 0);
  EXPECT_EQ(after.weight_bytes_up, engine->info().weight_bytes);
  EXPECT_EQ(after.rows - before.rows, 1);
}

TEST_F(EngineTest, AStepThatCannotRunAdvancesNothing) {
  const std::vector<Token> one = {7};
  EXPECT_NE(engine->step({{s, one}}).error.find("no KV pages"), std::string::npos);
  ASSERT_TRUE(engine->kv().reserve(s, 100));
  EXPECT_NE(engine->step({{s, some(100)}}).error.find("the limit is 64"), std::string::npos);
  const SequenceId other = engine->kv().create(0);
  EXPECT_FALSE(engine->step({{s, one}, {other, one}}).ok());  // one bad row group
  EXPECT_EQ(engine->kv().length(s), 0);
  EXPECT_EQ(engine->counters().steps, 0);
  EXPECT_TRUE(engine->step({{s, one}}).ok());
  EXPECT_FALSE(engine->kv().reserve(s, 32 * 16));
  EXPECT_EQ(engine->kv().length(s), 1);
}

TEST_F(EngineTest, InstallChecksItsShape) {
  const auto tokens = some(20);
  feed(tokens);
  HostKv kv = engine->sync_to_host(s);
  const auto refused = [&](const HostKv& bad) {
    const SequenceId id = engine->kv().create(0);
    const std::string error = engine->install(id, tokens, bad);
    EXPECT_EQ(engine->kv().length(id), 0);
    engine->kv().destroy(id);
    return !error.empty();
  };
  EXPECT_NE(engine->install(s, tokens, kv), "");  // not empty
  HostKv bad = kv;
  bad.rows = 19;
  EXPECT_TRUE(refused(bad));
  bad = kv;
  bad.layers.pop_back();
  EXPECT_TRUE(refused(bad));
  bad = kv;
  bad.layers[2].v.pop_back();
  EXPECT_TRUE(refused(bad));
  bad = kv;
  bad.kv_dim = 64;
  EXPECT_TRUE(refused(bad));
}

TEST_F(EngineTest, HandlesAreNamedByLayer) {
  feed(some(5));
  EXPECT_TRUE(engine->has("past_k_0"));
  EXPECT_TRUE(engine->has("past_v_4"));
  for (const char* name : {"past_k_5", "past_k_", "past_q_0", "past_k_0x", "past_k_-1", ""}) {
    EXPECT_FALSE(engine->has(name)) << name;
  }
  EXPECT_EQ(engine->read("past_v_4", s).size(), 5u * 128);
  EXPECT_THROW(engine->read("past_k_5", s), std::logic_error);
}

TEST_F(EngineTest, KvThatMovesIsCounted) {
  const auto tokens = some(40);  // three pages
  feed(tokens);
  const int64_t page = engine->info().page_bytes;
  const HostKv kv = engine->sync_to_host(s);
  EXPECT_EQ(engine->counters().kv_bytes_down, 3 * page);
  const SequenceId twin = engine->kv().create(1);
  EXPECT_EQ(engine->install(twin, tokens, kv), "");
  EXPECT_EQ(engine->counters().kv_bytes_up, 3 * page);
  const SequenceId forked = engine->kv().fork(twin, 40);
  const std::vector<Token> one = {7};
  ASSERT_TRUE(engine->kv().reserve(forked, 1));
  ASSERT_TRUE(engine->step({{forked, one}}).ok());  // into a page that both hold: it is copied
  EXPECT_EQ(engine->counters().kv_bytes_moved, page);
  EXPECT_EQ(engine->counters().kv_bytes_up, 3 * page);
  EXPECT_EQ(engine->counters().weight_bytes_up, engine->info().weight_bytes);
}

TEST_F(EngineTest, ReadingAHandleReadsItsLayerAlone) {
  feed(some(40));
  const HostKv all = engine->sync_to_host(s);
  const int64_t before = engine->counters().kv_bytes_down;
  EXPECT_EQ(engine->read("past_v_3", s), all.layers[3].v);
  EXPECT_EQ(engine->counters().kv_bytes_down - before, 3 * engine->info().page_bytes / (5 * 2));
  EXPECT_EQ(engine->read("past_k_4", s), all.layers[4].k);
}

TEST_F(EngineTest, BucketsCompileOnceAndWarmAhead) {
  std::vector<WarmedBucket> told;
  engine->warm(2, 64, [&](const WarmedBucket& b) { told.push_back(b); });
  ASSERT_EQ(told.size(), 2u);  // the largest first
  EXPECT_EQ(told[0].key, BucketKey::of(2, 64));
  EXPECT_EQ(told[1].key, BucketKey::of(1, 64));
  EXPECT_EQ(told[0].done, 1);
  EXPECT_EQ(told[0].all, 2);
  EXPECT_EQ(told[1].done, 2);
  EXPECT_GT(told[1].seconds, 0);
  const EngineCounters warm = engine->counters();
  EXPECT_EQ(warm.compiles, 2);  // batch 1 and 2, the first bucket of pasts
  feed({7});
  feed({8, 9});
  EXPECT_EQ(engine->counters().compiles, 2);
  EXPECT_EQ(engine->counters().compile_hits, 2);
  EXPECT_EQ(engine->binding().upper(ProgramKind::decode), 64);
  engine->reset_binding();
  EXPECT_FALSE(engine->binding().bound());
}

TEST_F(EngineTest, APageIsWholeBeforeAnotherSequenceReadsIt) {
  const auto tokens = some(40);
  ASSERT_TRUE(engine->kv().reserve(s, 40));
  EXPECT_EQ(engine->kv().adoptable(0, tokens), 0);  // reserved is not written
  ASSERT_TRUE(engine->step({{s, std::span(tokens).first(24)}}).ok());
  EXPECT_EQ(engine->kv().adoptable(0, tokens), 16);
}

TEST(EngineOpen, WhatCannotLoadSaysWhatToDo) {
  const auto error = [](EngineOptions o) -> std::string {
    try {
      Engine::open(o);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  };
  auto o = tiny();
  o.model_dir = "tests/golden/whisper-micro";
  EXPECT_NE(error(o).find("WhisperForConditionalGeneration"), std::string::npos);
  o.model_dir = "models/none";
  EXPECT_NE(error(o).find("model folder"), std::string::npos);
  o = tiny();
  o.device = "metal:0";
  EXPECT_NE(error(o).find("LIMPET_METAL"), std::string::npos) << error(o);
  o = tiny();
  o.kv_pages = 0;
  o.kv_bytes = 10;
  EXPECT_NE(error(o).find("KV pool"), std::string::npos);
  o = tiny();
  o.model_dir = "tests/golden/tokenizers/qwen2-style";
  EXPECT_NE(error(o).find("config.json"), std::string::npos);
}

TEST(EngineOpen, RandomWeightsNeedOnlyAConfig) {
  const auto dir = std::filesystem::temp_directory_path() /
                   ("limpet_random_" + std::to_string(::getpid()));
  std::filesystem::create_directories(dir);
  std::filesystem::copy_file("models/limpet-tiny/config.json", dir / "config.json",
                             std::filesystem::copy_options::overwrite_existing);
  auto o = tiny();
  o.model_dir = dir;
  EXPECT_THROW(Engine::open(o), std::runtime_error);
  const auto logits = [&](uint64_t seed) {
    o.random_weights = seed;
    const auto e = Engine::open(o);
    const SequenceId s = e->kv().create(0);
    EXPECT_TRUE(e->kv().reserve(s, 3));
    const auto tokens = some(3);
    const StepResult r = e->step({{s, tokens}});
    return std::vector<float>(r.values.begin(), r.values.end());
  };
  EXPECT_EQ(logits(1), logits(1));
  EXPECT_NE(logits(1), logits(2));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace limpet::engine
