// Which kernels a decoder's products run on is chosen by timing. Whichever it is, a step gives what
// it gives op by op; choosing touches no session's KV, and is done once in a process.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <string>
#include <tuple>

#include "backends/gpu/kernel_choice.h"
#include "engine/engine.h"
#include "tests/gpu/gpus.h"
#include "tests/gpu/random_models.h"
#include "tests/gpu/same_bits.h"

namespace limpet::engine {
namespace {

using test::RandomModel;
using Names = ChoiceTable::Names;

constexpr size_t kRows[] = {2, 8, 20, 64};
// q and k turned and appended by the product's end, with a bias; heads of 64, a window; q and k
// normed by a kernel of their own.
constexpr const char* kModels[] = {"seven", "narrow", "qwen3"};
constexpr const char* kNothing = "no such kernel";

std::string product(int n, int k) { return " " + std::to_string(n) + "x" + std::to_string(k); }

class GpuChoices : public ::testing::TestWithParam<std::tuple<std::string, const char*>> {
 protected:
  GpuChoices()
      : model_(*std::ranges::find_if(test::kRandomModels, [](const RandomModel& m) {
          return std::string(m.name) == std::get<1>(GetParam());
        })) {
    std::filesystem::create_directories(folder_);
  }
  ~GpuChoices() override {
    ChoiceMemory::of_process().forget();
    for (const auto& [key, names] : known_.all()) ChoiceMemory::of_process().put(key, names);
    std::filesystem::remove_all(folder_);
  }

  // Times what this process has not timed before, and tells the keys of this model.
  void find_keys() {
    const auto e = open(true);
    fused_ = test::is_fused(model_, *e);
    if (!fused_) return;
    vendor_ = e->info().device.starts_with("cuda");
    for (const size_t n : {size_t{1}, size_t{2}, size_t{8}, size_t{20}, size_t{64}}) run(*e, n);
    const auto& m = model_;
    const int q = m.heads * m.head_dim, all = q + 2 * m.kv_heads * m.head_dim;
    const std::string layers = product(all, m.hidden) + product(m.hidden, q) +
                               product(2 * m.inner, m.hidden) + product(m.hidden, m.inner);
    const std::string head = product(m.vocab, m.hidden);
    const std::string kind = std::get<0>(GetParam()).substr(0, std::get<0>(GetParam()).find(':'));
    known_ = ChoiceMemory::of_process().known();
    for (const auto& [key, names] : known_.all()) {
      const bool one = key.find(" of 1 ") != std::string::npos;
      const bool is_head = key.find(": head") != std::string::npos && key.ends_with(head);
      if (!key.starts_with(kind) || !(is_head || key.ends_with(layers))) continue;
      auto& keys = one ? (is_head ? head_of_one_ : layers_of_one_) : (is_head ? heads_ : layers_);
      keys.push_back(key);
    }
    // One for each number of rows, and those that other tests of this process have met.
    EXPECT_GE(layers_.size(), std::size(kRows));
    EXPECT_GE(heads_.size(), std::size(kRows));
    EXPECT_GE(head_of_one_.size(), 1u);
  }

  std::unique_ptr<Engine> open(bool fused) const {
    EngineOptions o;
    o.device = std::get<0>(GetParam());
    o.kv_pages = 200;
    o.max_rows = 512;
    o.max_wanted = 512;
    o.share_prefixes = false;
    o.fused = fused;
    o.choices_file = path_;
    return test::open_random(model_, o);
  }

  // The logits of steps in which each of n sequences has one row; their KV is given back.
  std::vector<float> run(Engine& e, size_t n) const {
    std::vector<float> all;
    std::vector<SequenceId> ids;
    for (size_t s = 0; s < n; ++s) ids.push_back(e.kv().create(0));
    for (size_t turn = 0; turn < 5; ++turn) {
      std::vector<Token> tokens;
      std::vector<StepRow> rows;
      for (size_t s = 0; s < n; ++s) {
        tokens.push_back(static_cast<Token>((turn * 37 + s * 91 + 11) % 500));
      }
      for (size_t s = 0; s < n; ++s) {
        EXPECT_TRUE(e.kv().reserve(ids[s], 1));
        rows.push_back({ids[s], std::span(tokens).subspan(s, 1), Want::last});
      }
      const StepResult r = e.step(rows);
      EXPECT_TRUE(r.ok()) << r.error;
      all.insert(all.end(), r.values.begin(), r.values.end());
    }
    for (const SequenceId id : ids) e.kv().destroy(id);
    return all;
  }

  static void put(const std::vector<std::string>& keys, const Names& names) {
    for (const std::string& key : keys) ChoiceMemory::of_process().put(key, names);
  }
  // Of how many keys these are still the names, so that there were such kernels.
  static size_t kept(const std::vector<std::string>& keys, const Names& names) {
    return static_cast<size_t>(std::ranges::count_if(keys, [&](const std::string& key) {
      return ChoiceMemory::of_process().find(key) == names;
    }));
  }
  // So that each key is timed anew when its rows are met; and how many have been since.
  void forget() const {
    for (const auto& keys : {layers_, layers_of_one_}) put(keys, Names(4, kNothing));
    for (const auto& keys : {heads_, head_of_one_}) put(keys, {kNothing});
  }
  int64_t found_since() const {
    size_t lost = 0;
    for (const auto& keys : {layers_, layers_of_one_}) lost += kept(keys, Names(4, kNothing));
    for (const auto& keys : {heads_, head_of_one_}) lost += kept(keys, {kNothing});
    return static_cast<int64_t>(layers_.size() + layers_of_one_.size() + heads_.size() +
                                head_of_one_.size() - lost);
  }

  RandomModel model_;
  bool fused_ = false, vendor_ = false;
  std::filesystem::path folder_ = std::filesystem::temp_directory_path() /
                                  ("limpet-gpu-choices-" + std::to_string(getpid()));
  std::string path_ = (folder_ / "choices").string();
  std::vector<std::string> layers_, layers_of_one_, heads_, head_of_one_;
  ChoiceTable known_ = ChoiceMemory::of_process().known();  // for those who come after
};

double relative(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size() && i < want.size(); ++i) {
    error += std::pow(got[i] - want[i], 2.0);
    norm += std::pow(want[i], 2.0);
  }
  return got.size() == want.size() ? std::sqrt(error / norm) : 1;
}

std::string joined(const Names& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

// Names of each kind of kernel, all products by the same one, and each product alone by the
// vendor's beside own ones: norms are made in other places then.
std::vector<Names> ways(bool vendor) {
  std::vector<Names> all;
  for (const char* name : {"skinny 1 1", "skinny 2 1", "skinny 1 2", "skinny 2 4"}) {
    all.push_back(Names(4, name));
  }
  if (!vendor) return all;
  for (const char* name : {"streamed 128 2 1 1", "streamed 128 4 2 2", "streamed 128 1 4 2",
                           "streamed 256 1 4 1", "vendor 0", "vendor 1"}) {
    all.push_back(Names(4, name));
  }
  for (size_t product = 0; product < 4; ++product) {
    Names names(4, "skinny 1 1");
    names[product] = "vendor 0";
    all.push_back(names);
    for (std::string& name : names) name = name == "vendor 0" ? "skinny 1 1" : "vendor 0";
    all.push_back(names);
  }
  return all;
}

TEST_P(GpuChoices, EveryWayOfAProductGivesWhatItGivesOpByOp) {
  find_keys();
  if (!fused_) return;  // programs run op by op there
  const auto plain = open(false);
  std::vector<std::vector<float>> want;
  for (const size_t n : kRows) want.push_back(run(*plain, n));
  for (const Names& names : ways(vendor_)) {
    SCOPED_TRACE(joined(names));
    put(layers_, names);
    put(heads_, {names[0]});
    const auto e = open(true);
    for (size_t i = 0; i < std::size(kRows); ++i) {
      EXPECT_LT(relative(run(*e, kRows[i]), want[i]), 2e-2) << kRows[i] << " rows";
    }
    // Some are not for so few rows, or so small a k: then they have been timed anew.
    const bool for_all = std::ranges::all_of(names, [](const std::string& name) {
      return name == "skinny 1 1" || name == "streamed 128 2 1 1" || name == "vendor 0";
    });
    EXPECT_TRUE(kept(layers_, names) == layers_.size() || !for_all);
    EXPECT_TRUE(kept(heads_, {names[0]}) == heads_.size() || !for_all);
  }
}

TEST_P(GpuChoices, EveryWayOfOneRowsHeadGivesWhatItGivesOpByOp) {
  find_keys();
  if (!fused_) return;  // programs run op by op there
  const auto plain = open(false);
  const auto want = run(*plain, 1);
  for (const char* name : {"rows 1 0", "rows 2 0", "rows 2 50", "bulk 1 100", "bulk 2 0",
                           "skinny 1 1", "skinny 2 1", "skinny 1 4"}) {
    SCOPED_TRACE(name);
    put(head_of_one_, {name});
    put(layers_of_one_, Names(4, name));
    const auto e = open(true);
    EXPECT_LT(relative(run(*e, 1), want), 2e-2);
    const size_t heads = kept(head_of_one_, {name});
    EXPECT_TRUE(heads == head_of_one_.size() || std::string(name) != "skinny 1 1");
  }
}

TEST_P(GpuChoices, ChoosingTouchesNoSessionsKv) {
  find_keys();
  if (!fused_) return;  // programs run op by op there
  const auto e = open(true);
  // Half of all pages, the first among them.
  const int64_t page = e->kv().page_tokens();
  std::vector<Token> tokens;
  for (int64_t i = 0; i < page * 100; ++i) tokens.push_back(static_cast<Token>((i * 37 + 5) % 500));
  const SequenceId s = e->kv().create(0);
  for (int64_t at = 0; at < std::ssize(tokens); at += 400) {
    const int64_t some = std::min<int64_t>(400, std::ssize(tokens) - at);
    ASSERT_TRUE(e->kv().reserve(s, some));
    const std::span<const Token> chunk = std::span(tokens).subspan(static_cast<size_t>(at),
                                                                   static_cast<size_t>(some));
    const StepResult r = e->step({{s, chunk, Want::last}});
    ASSERT_TRUE(r.ok()) << r.error;
  }
  const auto pages = [&] {
    std::vector<std::vector<std::byte>> all;
    for (const int32_t p : e->kv().page_table(s)) {
      all.emplace_back(static_cast<size_t>(e->info().page_bytes));
      e->read_page(p, all.back());
    }
    return all;
  };
  const auto before = pages();
  ASSERT_EQ(before.size(), 100u);
  forget();
  const int64_t timed = e->counters().choices_timed;
  for (const size_t n : {size_t{64}, size_t{20}, size_t{8}, size_t{2}, size_t{1}}) run(*e, n);
  EXPECT_EQ(e->counters().choices_timed - timed, found_since());
  EXPECT_GE(found_since(), 2 * std::ssize(kRows) + 1);  // layers and head, and one row's head
  const auto after = pages();
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(before[i] == after[i]) << "page " << i << " of the session";
  }
}

TEST_P(GpuChoices, AreTimedOnceInAProcessAndGiveTheSameBits) {
  find_keys();
  if (!fused_) return;  // programs run op by op there
  forget();
  const auto first = open(true), second = open(true);
  std::vector<std::vector<float>> want;
  for (const size_t n : kRows) want.push_back(run(*first, n));
  EXPECT_EQ(first->counters().choices_timed, found_since());
  EXPECT_GE(found_since(), 2 * std::ssize(kRows));
  EXPECT_GT(first->counters().choice_seconds, 0);
  for (size_t i = 0; i < std::size(kRows); ++i) {
    EXPECT_TRUE(test::same_bits(run(*second, kRows[i]), want[i], model_.vocab)) << kRows[i];
  }
  EXPECT_EQ(second->counters().choices_timed, 0);
  // And the next process finds them.
  ChoiceMemory next;
  EXPECT_EQ(next.keep_in(path_), "");
  for (const auto& keys : {layers_, heads_}) {
    for (const std::string& key : keys) {
      const auto names = ChoiceMemory::of_process().find(key);
      ASSERT_TRUE(names) << key;
      EXPECT_EQ(next.find(key), names) << key << ": " << joined(*names);
    }
  }
}

// By fixed rules nothing is timed, whatever is remembered.
TEST_P(GpuChoices, ByFixedRulesNothingIsTimed) {
  EngineOptions o;
  o.device = std::get<0>(GetParam());
  o.kv_pages = 200;
  o.share_prefixes = false;
  o.timed_choices = false;
  const auto e = test::open_random(model_, o);
  EngineOptions by_op = o;
  by_op.fused = false;
  const auto plain = test::open_random(model_, by_op);
  for (const size_t n : {size_t{1}, size_t{8}}) {
    EXPECT_LT(relative(run(*e, n), run(*plain, n)), 2e-2) << n;
  }
  EXPECT_EQ(e->counters().choices_timed, 0);
  EXPECT_EQ(e->counters().choice_seconds, 0);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuChoices);
INSTANTIATE_TEST_SUITE_P(Models, GpuChoices,
                         ::testing::Combine(::testing::ValuesIn(test::gpus()),
                                            ::testing::ValuesIn(kModels)),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           std::ranges::replace(name, ':', '_');
                           return name + "_" + std::get<1>(info.param);
                         });

}  // namespace
}  // namespace limpet::engine
