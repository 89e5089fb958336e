// Decode attention after long pasts, in steps of few rows and of one, gives what it gives op by op:
// each row of a sequence of its own, at the positions where the kernels cut keys in another way.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <tuple>

#include "engine/engine.h"
#include "tests/gpu/gpus.h"
#include "tests/gpu/random_models.h"
#include "tests/gpu/relative.h"
#include "tests/gpu/same_bits.h"

namespace limpet::engine {
namespace {

using test::relative;

// Where ops/paged_attention/split_cuts.cuh cuts: every 128 tokens before position 1536, every 512
// after, the last cut a quarter longer. The kernel for one row (backends/gpu/one_row/attention.cuh)
// cuts every 64.
constexpr int64_t kPositions[] = {63,   64,   65,   127,  128,  129,  159,  160,  161,  191,
                                  192,  193,  1023, 1024, 1025, 1055, 1056, 1057, 1087, 1088,
                                  1089, 1407, 1408, 1409, 1535, 1536, 1537, 1663, 1664, 1665,
                                  2047, 2048, 2049, 2175, 2176, 2177, 4095, 4096, 4097, 4159,
                                  4160, 4161, 4223, 4224, 4225, 4607, 4608, 4609};
constexpr int64_t kTokens = 4700, kPages = 400;

// KV in which every page weighs, and the first and last token of each 64 as much as all the others
// together. Attention outweighs the residual stream then: a page or such a token left out moves the
// row's logits by 3 % at least. All of it is exact in bf16.
HostKv telling_kv(const EngineInfo& info) {
  HostKv kv{.rows = kTokens, .kv_dim = info.kv_heads * info.head_dim};
  std::mt19937_64 rng(11);
  for (int64_t l = 0; l < info.layers; ++l) {
    HostKv::Layer layer;
    std::vector<float> sign(static_cast<size_t>(kv.kv_dim));
    for (int64_t t = 0; t < kTokens; ++t) {
      const bool edge = t % 64 == 0 || t % 64 == 63;
      for (size_t i = 0; i < sign.size(); ++i) {
        if (edge || t % 16 == 0 || t % 64 == 1) sign[i] = rng() % 2 == 0 ? 1.0f : -1.0f;
        layer.k.push_back(static_cast<float>(static_cast<int64_t>(rng() % 257) - 128) / 128);
        layer.v.push_back(sign[i] * (edge ? 512.0f : 16.0f));
      }
    }
    kv.layers.push_back(std::move(layer));
  }
  return kv;
}

std::vector<Token> text(int64_t n) {
  std::vector<Token> tokens(static_cast<size_t>(n));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<Token>((i * 37 + 11) % 500);
  return tokens;
}

// A sequence with that KV, from which others are cut.
class Past {
 public:
  Past(Engine& engine, const HostKv& kv)
      : engine_(engine), whole_(engine.kv().create(0)), tokens_(text(kTokens + 1)) {
    EXPECT_EQ(engine.install(whole_, std::span(tokens_).first(kTokens), kv), "");
  }
  // The logits of one step with a row at each of these positions, in their order.
  std::vector<float> at(std::span<const int64_t> positions) {
    std::vector<StepRow> rows;
    for (const int64_t p : positions) {
      const SequenceId s = engine_.kv().fork(whole_, p);
      EXPECT_TRUE(engine_.kv().reserve(s, 1));
      rows.push_back({s, std::span(tokens_).subspan(static_cast<size_t>(p), 1), Want::last});
    }
    const StepResult r = engine_.step(rows);
    EXPECT_TRUE(r.ok()) << r.error;
    const std::vector<float> logits(r.values.begin(), r.values.end());
    for (const StepRow& row : rows) engine_.kv().destroy(row.sequence);
    return logits;
  }

 private:
  Engine& engine_;
  const SequenceId whole_;
  const std::vector<Token> tokens_;
};

// The models with fast kernels; not the one whose weights take seconds to draw.
std::vector<const test::RandomModel*> models() {
  std::vector<const test::RandomModel*> all;
  for (const test::RandomModel& m : test::kRandomModels) {
    if (ops::has_fast_attention(m.head_dim) && m.hidden < 2000) all.push_back(&m);
  }
  return all;
}

using Case = std::tuple<std::string, const test::RandomModel*>;  // the device first
class GpuLongPasts : public ::testing::TestWithParam<Case> {
 protected:
  static std::unique_ptr<Engine> open(bool fused) {
    EngineOptions o;
    o.device = std::get<0>(GetParam());
    o.kv_pages = kPages;
    o.max_rows = 64;
    o.share_prefixes = false;
    o.fused = fused;
    return test::open_random(*std::get<1>(GetParam()), o);
  }
};

TEST_P(GpuLongPasts, RowsOfSequencesOfManyLengthsGiveWhatTheyGiveOpByOp) {
  const auto engine = open(true), other = open(false);
  const HostKv kv = telling_kv(engine->info());
  Past fused(*engine, kv), plain(*other, kv);
  const auto width = static_cast<size_t>(engine->info().vocab);
  const std::vector<float> want = plain.at(kPositions);
  ASSERT_EQ(want.size(), std::size(kPositions) * width);
  const auto wanted = [&](int64_t position) {
    const auto row = static_cast<size_t>(std::ranges::find(kPositions, position) - kPositions);
    return std::span(want).subspan(row * width, width);
  };
  // All in one step; five, which are padded to 8 rows; and each alone.
  std::vector<std::vector<int64_t>> steps = {{std::begin(kPositions), std::end(kPositions)},
                                             {4097, 128, 1536, 2048, 1535}};
  for (const int64_t p : kPositions) steps.push_back({p});
  for (const auto& positions : steps) {
    const std::vector<float> got = fused.at(positions);
    ASSERT_EQ(got.size(), positions.size() * width);
    for (size_t i = 0; i < positions.size(); ++i) {
      const auto row = std::span(got).subspan(i * width, width);
      EXPECT_LT(relative(row, wanted(positions[i])), 2e-2)
          << "at position " << positions[i] << ", in a step of " << positions.size() << " rows";
    }
    EXPECT_TRUE(test::same_bits(fused.at(positions), got, engine->info().vocab)) << "again";
  }
  EXPECT_EQ(engine->counters().fused_programs > 0,
            test::is_fused(*std::get<1>(GetParam()), *engine));
  EXPECT_EQ(other->counters().fused_programs, 0);
}

// What a row gives does not depend on where in the step it stands, nor on the rows beside it.
TEST_P(GpuLongPasts, RowsInAnotherOrderGiveTheSameBits) {
  const auto engine = open(true);
  Past past(*engine, telling_kv(engine->info()));
  const auto width = static_cast<size_t>(engine->info().vocab);
  std::vector<int64_t> positions(std::begin(kPositions), std::end(kPositions));
  const std::vector<float> want = past.at(positions);
  std::ranges::reverse(positions);
  const std::vector<float> got = past.at(positions);
  for (size_t i = 0; i < positions.size(); ++i) {
    const size_t back = positions.size() - 1 - i;
    EXPECT_TRUE(test::same_bits(std::span(got).subspan(i * width, width),
                                std::span(want).subspan(back * width, width),
                                engine->info().vocab))
        << "at position " << positions[i] << ", row " << i << " instead of " << back;
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuLongPasts);
INSTANTIATE_TEST_SUITE_P(Models, GpuLongPasts,
                         ::testing::Combine(::testing::ValuesIn(test::gpus()),
                                            ::testing::ValuesIn(models())),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           std::ranges::replace(name, ':', '_');
                           return name + "_" + std::get<1>(info.param)->name;
                         });

}  // namespace
}  // namespace limpet::engine
