// The compile cache and named handles, on a small graph written by hand; no model around them.
#include "engine/compile_cache.h"

#include <gtest/gtest.h>

#include "backends/make_backend.h"
#include "engine/device_support.h"
#include "engine/handles.h"

namespace limpet::engine {
namespace {

constexpr int64_t kDim = 2;

// Two layers. output_0 = x + x + past_k_0, for the caller. Of layer i, output_<1 + 2i> = past_k_i +
// (i + 1) x, which feeds past_k_i, and output_<2 + 2i> = past_v_i + that, which feeds past_v_i.
// Handles are [past, 2].
Graph running_sums(const hir::Bounds& upper) {
  Graph g;
  const Shape shape{upper.past, kDim};
  const auto named = [&](const std::string& name, ValueKind kind) {
    return g.add({.name = name, .shape = shape, .kind = kind});
  };
  const auto x = named("x", ValueKind::input), twice = named("twice", ValueKind::temporary);
  g.nodes = {{ops::Add{}, {x, x}, {twice}}};
  for (int i = 0; i < 2; ++i) {
    const auto k = named("past_k_" + std::to_string(i), ValueKind::handle);
    const auto v = named("past_v_" + std::to_string(i), ValueKind::handle);
    const auto k_out = named("output_" + std::to_string(1 + 2 * i), ValueKind::output);
    const auto v_out = named("output_" + std::to_string(2 + 2 * i), ValueKind::output);
    if (i == 0) g.nodes.push_back({ops::Add{}, {k, twice}, {named("output_0", ValueKind::output)}});
    g.nodes.push_back({ops::Add{}, {k, i == 0 ? x : twice}, {k_out}});
    g.nodes.push_back({ops::Add{}, {v, k_out}, {v_out}});
  }
  return g;
}

class Cache : public ::testing::Test {
 protected:
  Cache() : backend(make_backend(parse_device("cpu"), {.threads = 1})) {}

  CompileCache make(Ladder batch, Ladder past, int64_t budget = 1 << 20) {
    return {*backend, {.batch = std::move(batch), .past = std::move(past), .byte_budget = budget},
            CompileCache::GraphBuilder([this](const hir::Bounds& upper) {
              built.push_back(BucketKey::of(static_cast<uint32_t>(upper.rows),
                                            static_cast<uint32_t>(upper.past)));
              return running_sums(upper);
            })};
  }
  // Binds input and the output that feeds nothing, as the caller of the cache does.
  void bind_plain(const Compiled& c, Buffer& x, Buffer& logits) {
    for (size_t i = 0; i < c.program.values.size(); ++i) {
      const auto id = static_cast<ValueId>(i);
      if (c.program.values[i].name == "x") c.executable->bind(id, x);
      if (c.program.values[i].name == "output_0") c.executable->bind(id, logits);
    }
  }

  std::unique_ptr<Backend> backend;
  std::vector<BucketKey> built;
};

TEST_F(Cache, BuildsOnceForEachBucketWithItsUpperBound) {
  auto cache = make(Ladder::powers_of_two(1, 8), Ladder::linear(128, 64));
  EXPECT_FALSE(cache.contains(BucketKey::of(3, 20)));
  const auto first = cache.get(BucketKey::of(3, 20));
  ASSERT_NE(first.compiled, nullptr);
  EXPECT_EQ(first.compiled->key, BucketKey::of(4, 32));
  EXPECT_EQ(first.compiled->upper.past, 32);
  EXPECT_EQ(first.compiled->upper.wanted, 4);
  EXPECT_TRUE(cache.contains(BucketKey::of(4, 1)));
  EXPECT_EQ(cache.get(BucketKey::of(4, 32)).compiled, first.compiled);
  cache.get(BucketKey::of(3, 33));
  EXPECT_EQ(cache.compiled_count(), 2);
  EXPECT_EQ(built, (std::vector{BucketKey::of(4, 32), BucketKey::of(4, 64)}));
  EXPECT_EQ(cache.counters().compiles, 2);
  EXPECT_EQ(cache.counters().hits, 1);
}

TEST_F(Cache, ProgramsForRunsAreApartAndSaySo) {
  auto cache = make(Ladder::powers_of_two(1, 8), Ladder::single(64));
  const auto plain = cache.get(BucketKey::of(3, 20));
  ASSERT_NE(plain.compiled, nullptr);
  EXPECT_FALSE(plain.compiled->program.runs);
  EXPECT_FALSE(cache.contains(BucketKey::of(3, 20, true)));
  const auto runs = cache.get(BucketKey::of(3, 20, true));
  ASSERT_NE(runs.compiled, nullptr);
  EXPECT_EQ(runs.compiled->key, BucketKey::of(4, 64, true));
  EXPECT_TRUE(runs.compiled->program.runs);
  EXPECT_EQ(cache.compiled_count(), 2);
}

TEST_F(Cache, AKeyOutsideAllBucketsIsAnErrorThatNamesKeyAndLimits) {
  auto cache = make(Ladder::powers_of_two(1, 8), Ladder::single(128));
  for (const BucketKey key : {BucketKey::of(9, 1), BucketKey::of(1, 129)}) {
    const auto found = cache.get(key);
    EXPECT_EQ(found.compiled, nullptr);
    EXPECT_NE(found.error.find(to_string(key)), std::string::npos) << found.error;
    EXPECT_NE(found.error.find("batch 8, past 128"), std::string::npos) << found.error;
    EXPECT_FALSE(cache.contains(key));
  }
  EXPECT_TRUE(built.empty());
}

TEST_F(Cache, TheLeastRecentlyUsedIsEvictedUnderTheBudget) {
  auto probe = make(Ladder::single(1), Ladder::single(64));
  probe.get(BucketKey::of(1, 1));
  auto cache = make(Ladder::powers_of_two(1, 4), Ladder::single(64), 2 * probe.bytes());
  for (const uint32_t batch : {1u, 2u, 1u, 4u}) cache.get(BucketKey::of(batch, 1));
  EXPECT_EQ(cache.compiled_count(), 2);
  EXPECT_TRUE(cache.contains(BucketKey::of(1, 1)));
  EXPECT_FALSE(cache.contains(BucketKey::of(2, 1)));
  EXPECT_EQ(cache.counters().evictions, 1);
  auto tiny = make(Ladder::powers_of_two(1, 4), Ladder::single(64), 1);
  EXPECT_NE(tiny.get(BucketKey::of(1, 1)).compiled, nullptr);  // the one in use always stays
  EXPECT_EQ(tiny.compiled_count(), 1);
}

TEST_F(Cache, OutputsFeedHandlesWithoutATripThroughTheHost) {
  auto cache = make(Ladder::single(1), Ladder::single(2));
  const Compiled& c = *cache.get(BucketKey::of(1, 2)).compiled;
  Handles handles(*backend);
  EXPECT_FALSE(handles.has("past_k_0"));
  EXPECT_THROW(handles.read("past_k_0", 1), std::logic_error);
  handles.install("past_k_0", std::vector<float>{1, 2}, kDim, 2);  // one row, padded to two
  for (const char* name : {"past_v_0", "past_k_1", "past_v_1"}) handles.bind(name, 2 * kDim * 4);
  handles.feed_layers(2);
  EXPECT_THROW(handles.feed_layers(3), std::logic_error);  // there is no past_k_2
  const std::vector<float> x = {1, 1, 1, 1};
  const auto input = backend->allocate(16), logits = backend->allocate(16);
  backend->write(*input, 0, x.data(), 16);
  bind_plain(c, *input, *logits);
  const auto before = backend->counters();
  for (int i = 0; i < 3; ++i) handles.run(c.program, *c.executable);
  const auto after = backend->counters();
  EXPECT_EQ(after.bytes_up, before.bytes_up);
  EXPECT_EQ(after.bytes_down, before.bytes_down);
  EXPECT_EQ(after.bytes_copied, before.bytes_copied);
  EXPECT_TRUE(handles.has("past_k_0"));
  EXPECT_EQ(handles.read("past_k_0", 4), (std::vector<float>{4, 5, 3, 3}));
  EXPECT_EQ(handles.read("past_v_0", 4), (std::vector<float>{9, 12, 6, 6}));
  EXPECT_EQ(handles.read("past_k_1", 4), (std::vector<float>{6, 6, 6, 6}));
  EXPECT_EQ(handles.read("past_v_1", 4), (std::vector<float>{12, 12, 12, 12}));
  // Only what is asked for is read back.
  std::vector<float> row(2);
  backend->read(*logits, 0, row.data(), 8);
  EXPECT_EQ(row, (std::vector<float>{5, 6}));
  EXPECT_EQ(backend->counters().bytes_down - after.bytes_down, 4 * 16 + 8);
}

TEST_F(Cache, AHandleKeepsWhatLiesBeyondAShorterOutput) {
  auto cache = make(Ladder::single(1), Ladder::single(2));
  const Compiled& c = *cache.get(BucketKey::of(1, 2)).compiled;
  Handles handles(*backend);
  for (const char* name : {"past_k_0", "past_v_0", "past_k_1", "past_v_1"}) {
    handles.install(name, std::vector<float>{1, 2, 3, 4, 5, 6}, kDim, 4);  // two rows more
  }
  handles.feed_layers(2);
  const auto input = backend->allocate(16), logits = backend->allocate(16);
  bind_plain(c, *input, *logits);  // x is zero
  // An odd number: after an even one the first buffer is back, with the rows it always had.
  for (int i = 0; i < 3; ++i) handles.run(c.program, *c.executable);
  EXPECT_EQ(handles.read("past_k_1", 8), (std::vector<float>{1, 2, 3, 4, 5, 6, 0, 0}));
  EXPECT_EQ(handles.read("past_v_0", 8), (std::vector<float>{4, 8, 12, 16, 5, 6, 0, 0}));
}

TEST_F(Cache, InstallRefusesRowsThatDoNotFitTheBucket) {
  Handles handles(*backend);
  const std::vector<float> rows = {1, 2, 3, 4};
  EXPECT_THROW(handles.install("past_k_0", rows, 2, 1), std::logic_error);
  EXPECT_THROW(handles.install("past_k_0", rows, 3, 4), std::logic_error);
  handles.install("past_k_0", rows, 2, 3);
  EXPECT_EQ(handles.read("past_k_0", 6), (std::vector<float>{1, 2, 3, 4, 0, 0}));
}

TEST(DeviceSupport, EveryKindButTheCpuKeepsKvResident) {
  for (const char* kind : {"cuda", "hip", "vulkan", "metal", "mlx", "webgpu"}) {
    EXPECT_TRUE(supports_resident_kv(parse_device(kind).kind)) << kind;
    EXPECT_THROW(make_backend(parse_device(kind)), std::runtime_error) << kind;
  }
  EXPECT_FALSE(supports_resident_kv(DeviceKind::cpu));
}

}  // namespace
}  // namespace limpet::engine
