// Whatever a plan's products are given to, logits are those of op by op within rounding; choosing
// touches no session's KV, happens once in a process, and is taken from what is remembered.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "backends/gpu/choice_memory.h"
#include "engine/engine.h"
#include "tests/gpu/gpus.h"
#include "tests/gpu/random_models.h"
#include "tests/gpu/relative.h"

namespace limpet::engine {
namespace {

using test::RandomModel;
using test::relative;

// Of every kind of layer: bias or none, norms of heads or none; k enough for all of the cuts.
const RandomModel kModels[] = {
    {"choices", "Qwen2ForCausalLM", 1024, 1088, 8, 2, 128, 1000, 0},
    {"choices-normed", "Qwen3ForCausalLM", 1024, 1088, 8, 2, 128, 1000, 0},
    {"choices-narrow", "LlamaForCausalLM", 1024, 1088, 16, 8, 64, 1000, 0},
};

std::vector<Token> text(size_t n) {
  std::vector<Token> tokens(n);
  for (size_t i = 0; i < n; ++i) tokens[i] = static_cast<Token>((i * 37 + 11) % 500);
  return tokens;
}

std::unique_ptr<Engine> open(const RandomModel& m, const std::string& device, bool fused,
                             const std::string& file = {}) {
  EngineOptions o;
  o.device = device;
  o.kv_pages = 200;
  o.max_rows = 64;
  o.max_wanted = 64;
  o.share_prefixes = false;
  o.fused = fused;
  o.choices_file = file;
  return test::open_random(m, o);
}

// The logits of three steps in which each of n sequences has one row.
std::vector<float> run(Engine& e, size_t n) {
  std::vector<float> all;
  const auto tokens = text(600);
  std::vector<SequenceId> ids;
  for (size_t s = 0; s < n; ++s) ids.push_back(e.kv().create(0));
  for (size_t turn = 0; turn < 3; ++turn) {
    std::vector<StepRow> rows;
    for (size_t s = 0; s < n; ++s) {
      EXPECT_TRUE(e.kv().reserve(ids[s], 1));
      rows.push_back({ids[s], std::span(tokens).subspan(turn + 7 * s, 1), Want::last});
    }
    const StepResult r = e.step(rows);
    EXPECT_TRUE(r.ok()) << r.error;
    all.insert(all.end(), r.values.begin(), r.values.end());
  }
  for (const SequenceId id : ids) e.kv().destroy(id);
  return all;
}

// Names that products.cuh gives its candidates; some are not there for every product or library.
std::vector<std::string> names() {
  std::vector<std::string> all = {"streamed 128 4 2 2", "streamed 128 4 1 2", "streamed 128 2 2 2",
                                  "streamed 128 2 1 2", "streamed 128 2 1 1", "streamed 128 1 4 2",
                                  "streamed 256 1 4 1"};
  for (const char* groups : {"1", "2"}) {
    for (const char* split : {"1", "2", "4", "8"}) {
      all.push_back(std::string("skinny ") + groups + " " + split);
    }
  }
  for (int i = 0; i < 8; ++i) all.push_back("vendor " + std::to_string(i));
  return all;
}

class GpuChoices : public ::testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  std::string device() const { return std::get<0>(GetParam()); }
  const RandomModel& model() const { return kModels[std::get<1>(GetParam())]; }
  void SetUp() override {
    ChoiceMemory::of_process().forget();
    fused_ = test::is_fused(model(), *open(model(), device(), true));
  }
  void TearDown() override { ChoiceMemory::of_process().forget(); }
  bool fused_ = true;  // else nothing is chosen
};

TEST_P(GpuChoices, EveryCandidateGivesWhatOpByOpGives) {
  ChoiceMemory& memory = ChoiceMemory::of_process();
  const auto plain = open(model(), device(), false);
  for (const size_t n : {13, 64}) {
    memory.forget();
    const auto want = run(*plain, n);
    EXPECT_LT(relative(run(*open(model(), device(), true), n), want), 2e-2) << n;
    const ChoiceTable timed = memory.known();
    ASSERT_EQ(timed.size(), fused_ ? 2u : 0u) << "the layers and the head: " << timed.text();
    if (!fused_) continue;
    size_t taken = 0;
    for (const std::string& name : names()) {
      // All products by it; and, the vendor's first, each alone among own kernels.
      for (size_t product = 0; product < (name == "vendor 0" ? 5u : 1u); ++product) {
        memory.forget();
        for (const auto& [key, chosen] : timed.all()) {
          ChoiceTable::Names other(chosen.size(), product == 0 ? name : "skinny 1 4");
          if (product > 0 && product <= other.size()) other[product - 1] = name;
          memory.put(key, other);
        }
        const ChoiceTable put = memory.known();
        const auto e = open(model(), device(), true);
        const auto got = run(*e, n);
        EXPECT_LT(relative(got, want), 2e-2) << name << " of product " << product << ", " << n;
        EXPECT_EQ(got, run(*e, n)) << "again";
        taken += memory.known().text() == put.text() ? 1 : 0;  // else there is no such candidate
      }
    }
    EXPECT_GE(taken, device().starts_with("cuda") ? 12u : 2u) << n;
  }
}

TEST_P(GpuChoices, AreMadeOnceInAProcessAndKeptInAFile) {
  const std::string path = (std::filesystem::temp_directory_path() /
                            ("limpet-gpu-choices-" + std::to_string(getpid()))).string();
  const auto a = open(model(), device(), true, path);
  const auto first = run(*a, 8);
  EXPECT_EQ(a->counters().choices_timed, fused_ ? 2 : 0);
  EXPECT_EQ(a->counters().choice_seconds > 0, fused_);
  EXPECT_EQ(run(*a, 8), first);
  const auto b = open(model(), device(), true);
  EXPECT_EQ(run(*b, 8), first);
  EXPECT_EQ(b->counters().choices_timed, 0);
  ChoiceMemory::of_process().forget();  // as another process would know nothing
  const auto c = open(model(), device(), true, path);
  EXPECT_EQ(run(*c, 8), first);
  EXPECT_EQ(c->counters().choices_timed, 0);
  std::filesystem::remove(path);
}

TEST_P(GpuChoices, TouchNoSessionsKv) {
  const auto e = open(model(), device(), true);
  const auto tokens = text(40);
  const SequenceId s = e->kv().create(0);
  for (size_t i = 0; i < tokens.size(); ++i) {
    ASSERT_TRUE(e->kv().reserve(s, 1));
    ASSERT_TRUE(e->step({{s, std::span(tokens).subspan(i, 1), Want::last}}).ok());
  }
  const HostKv before = e->sync_to_host(s);
  const int64_t timed = e->counters().choices_timed;
  run(*e, 8), run(*e, 20), run(*e, 64);
  EXPECT_EQ(e->counters().choices_timed, timed + (fused_ ? 6 : 0));
  const HostKv after = e->sync_to_host(s);
  ASSERT_EQ(after.layers.size(), before.layers.size());
  for (size_t l = 0; l < before.layers.size(); ++l) {
    EXPECT_EQ(after.layers[l].k, before.layers[l].k) << l;
    EXPECT_EQ(after.layers[l].v, before.layers[l].v) << l;
  }
}

// Of one row: the head, and the layers where they are no single kernel.
TEST_P(GpuChoices, EveryCandidateOfOneRowGivesWhatOpByOpGives) {
  ChoiceMemory& memory = ChoiceMemory::of_process();
  const auto want = run(*open(model(), device(), false), 1);
  EXPECT_LT(relative(run(*open(model(), device(), true), 1), want), 2e-2);
  const ChoiceTable timed = memory.known();
  ASSERT_EQ(timed.size() > 0, fused_) << "the head";
  if (!fused_) return;  // nothing is chosen
  size_t taken = 0;
  for (const char* name : {"rows 1 0", "rows 2 0", "rows 2 50", "bulk 1 0", "bulk 1 100",
                           "bulk 2 0", "bulk 2 100", "skinny 1 1", "skinny 2 1", "skinny 1 4"}) {
    memory.forget();
    for (const auto& [key, chosen] : timed.all()) {
      memory.put(key, ChoiceTable::Names(chosen.size(), name));
    }
    const ChoiceTable put = memory.known();
    const auto e = open(model(), device(), true);
    const auto got = run(*e, 1);
    EXPECT_LT(relative(got, want), 2e-2) << name;
    EXPECT_EQ(got, run(*e, 1)) << name << " again";
    taken += memory.known().text() == put.text() ? 1 : 0;
  }
  EXPECT_GE(taken, 4u);
}

TEST_P(GpuChoices, ByFixedRulesNothingIsTimed) {
  EngineOptions o;
  o.device = device();
  o.kv_pages = 200;
  o.timed_choices = false;
  const auto e = test::open_random(model(), o);
  const auto plain = open(model(), device(), false);
  for (const size_t n : {1, 8}) EXPECT_LT(relative(run(*e, n), run(*plain, n)), 2e-2) << n;
  EXPECT_EQ(e->counters().choices_timed, 0);
  EXPECT_EQ(e->counters().choice_seconds, 0);
  EXPECT_EQ(ChoiceMemory::of_process().known().size(), 0u);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuChoices);
INSTANTIATE_TEST_SUITE_P(Models, GpuChoices,
                         ::testing::Combine(::testing::ValuesIn(test::gpus()),
                                            ::testing::Range(0, static_cast<int>(
                                                                    std::size(kModels)))),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param) + "_" +
                                              kModels[std::get<1>(info.param)].name;
                           std::ranges::replace_if(
                               name, [](char c) { return c == '-' || c == ':'; }, '_');
                           return name;
                         });

}  // namespace
}  // namespace limpet::engine
