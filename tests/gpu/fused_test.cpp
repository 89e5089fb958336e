// A decoder on the kernels that take several ops at once gives what it gives op by op, within the
// rounding of its activations to bf16.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <tuple>

#include "backends/gpu/decoder_match.h"
#include "engine/config.h"
#include "engine/engine.h"
#include "engine/graph.h"
#include "engine/models/architecture.h"
#include "tests/gpu/gpus.h"
#include "tests/gpu/random_models.h"
#include "tests/gpu/relative.h"
#include "tests/gpu/same_bits.h"

namespace limpet::engine {
namespace {

using test::relative;

Program program_of(const test::RandomModel& m, DType dtype, int64_t rows) {
  const test::RandomModelFolder folder(m);
  const ModelConfig config = load_config(folder.path());
  LowerOptions lowering{.weights = dtype, .attention_weights = dtype, .kv = dtype,
                        .layers = config.layers, .kv_heads = config.kv_heads,
                        .head_dim = config.head_dim, .pages = 8, .max_sequences = 4};
  Graph graph = lower_module(
      find_architecture(config.architecture).build(config, {rows, 128, std::min<int64_t>(rows, 2)}),
      lowering);
  fuse(graph);
  return lower(graph);
}

TEST(DecoderMatch, FindsTheLayersOfEachArchitecture) {
  for (const test::RandomModel& m : test::kRandomModels) {
    SCOPED_TRACE(m.name);
    const Program program = program_of(m, DType::bf16, 4);
    const auto found = match_decoder(program);
    ASSERT_TRUE(found.has_value());
    ASSERT_EQ(found->layers.size(), static_cast<size_t>(m.layers));
    EXPECT_EQ(found->rows, 4);
    EXPECT_EQ(found->hidden, m.hidden);
    EXPECT_EQ(found->inner, m.inner);
    EXPECT_EQ(found->heads, m.heads);
    EXPECT_EQ(found->kv_heads, m.kv_heads);
    EXPECT_EQ(found->head_dim, m.head_dim);
    EXPECT_EQ(found->rotary, m.head_dim);
    EXPECT_EQ(found->layers.back().layer, m.layers - 1);
    EXPECT_EQ(found->layers[1].window, m.window);
    EXPECT_EQ(found->layers[0].q_norm >= 0, std::string(m.architecture) == "Qwen3ForCausalLM");
    EXPECT_EQ(found->layers[0].qkv_bias >= 0, std::string(m.architecture) == "Qwen2ForCausalLM");
    EXPECT_TRUE(std::holds_alternative<ops::GatherRows>(program.steps[found->end].op));
  }
}

TEST(DecoderMatch, LeavesOtherProgramsAlone) {
  EXPECT_FALSE(match_decoder(program_of(test::kRandomModels[0], DType::f32, 4)).has_value());
  Program program = program_of(test::kRandomModels[0], DType::bf16, 4);
  // The second layer's last product is added to something else than the residual stream.
  int downs = 0;
  for (ProgramStep& step : program.steps) {
    const auto* op = std::get_if<ops::Linear>(&step.op);
    if (op == nullptr || !op->residual || ++downs != 4) continue;
    step.inputs[2] = program.steps[0].outputs[0];
  }
  const auto found = match_decoder(program);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->layers.size(), 1u);
  EXPECT_FALSE(match_decoder(Program{}).has_value());
}

std::vector<Token> text(size_t n) {
  std::vector<Token> tokens(n);
  for (size_t i = 0; i < n; ++i) tokens[i] = static_cast<Token>((i * 37 + 11) % 500);
  return tokens;
}

using Case = std::tuple<std::string, int>;
class GpuFused : public ::testing::TestWithParam<Case> {
 protected:
  static const test::RandomModel& model() { return test::kRandomModels[std::get<1>(GetParam())]; }
  std::unique_ptr<Engine> open(bool fused, int64_t kv_pages = 200) const {
    EngineOptions o;
    o.device = std::get<0>(GetParam());
    o.kv_pages = kv_pages;
    o.max_rows = 512;
    o.max_wanted = 512;
    o.share_prefixes = false;
    o.fused = fused;
    return test::open_random(model(), o);
  }
};

// The logits of every row of chunks of these sizes, each chunk beside rows of another sequence.
std::vector<float> run(Engine& e, const std::vector<size_t>& chunks) {
  std::vector<float> all;
  const auto tokens = text(2000);
  const SequenceId a = e.kv().create(0), b = e.kv().create(0);
  size_t at = 0, other = 0;
  for (const size_t n : chunks) {
    EXPECT_TRUE(e.kv().reserve(a, static_cast<int64_t>(n)));
    EXPECT_TRUE(e.kv().reserve(b, 1));
    std::vector<StepRow> rows = {{a, std::span(tokens).subspan(at, n), Want::all}};
    if (n > 1) rows.push_back({b, std::span(tokens).subspan(100 + other++, 1), Want::last});
    const StepResult r = e.step(rows);
    EXPECT_TRUE(r.ok()) << r.error;
    all.insert(all.end(), r.values.begin(), r.values.end());
    at += n;
  }
  e.kv().destroy(a);
  e.kv().destroy(b);
  return all;
}

// The logits of steps in which each of n sequences has one row.
std::vector<float> run_side_by_side(Engine& e, size_t n) {
  std::vector<float> all;
  const auto tokens = text(600);
  std::vector<SequenceId> ids;
  for (size_t s = 0; s < n; ++s) ids.push_back(e.kv().create(0));
  for (size_t turn = 0; turn < 20; ++turn) {
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

TEST_P(GpuFused, RowsOfManySequencesGiveWhatTheyGiveOpByOp) {
  const auto fused = open(true), plain = open(false);
  for (const size_t n : {2, 8, 13, 20, 64}) {
    EXPECT_LT(relative(run_side_by_side(*fused, n), run_side_by_side(*plain, n)), 2e-2) << n;
  }
}

// Chunks of rows up to as many as the vendor's products take, twice each: the second has a past.
TEST_P(GpuFused, ChunksOfAnyLengthGiveWhatTheyGiveOpByOp) {
  const auto fused = open(true), plain = open(false);
  for (const size_t n : {2, 5, 8, 9, 16, 17, 32, 33, 62, 63, 64, 90}) {
    EXPECT_LT(relative(run(*fused, {n, n}), run(*plain, {n, n})), 2e-2) << n;
  }
}

TEST_P(GpuFused, GivesWhatItGivesOpByOp) {
  const auto fused = open(true), plain = open(false);
  for (const std::vector<size_t>& chunks :
       {std::vector<size_t>{1, 1, 1, 1}, {7, 1, 15, 30}, {63, 1, 33}, {100, 200, 1, 60, 130}}) {
    const auto got = run(*fused, chunks), want = run(*plain, chunks);
    EXPECT_LT(relative(got, want), 2e-2) << "chunks of " << chunks[0] << " …";
    EXPECT_EQ(got, run(*fused, chunks)) << "again";
  }
  EXPECT_EQ(plain->counters().fused_programs, 0);
  // HIP has no library for large products, so programs of many rows run op by op; on AMD all do.
  const int64_t all = fused->counters().compiles;
  if (!ops::has_fast_attention(model().head_dim)) {
    EXPECT_EQ(fused->counters().fused_programs, 0);
  } else if (fused->info().device.starts_with("cuda")) {
    EXPECT_EQ(fused->counters().fused_programs, all);
  } else {
    EXPECT_EQ(fused->counters().fused_programs > 0, LIMPET_HIP_PLANS == 1);
    EXPECT_LT(fused->counters().fused_programs, all);
  }
}

// More cuts of keys than the device has processors, and positions at a cut's first and last place.
TEST_P(GpuFused, OneRowAfterALongPastGivesWhatItGivesOpByOp) {
  const auto fused = open(true), plain = open(false);
  for (const std::vector<size_t>& chunks :
       {std::vector<size_t>{500, 500, 150, 1, 1, 1, 1}, {500, 500, 23, 1, 1, 1}, {63, 1, 1}}) {
    const auto got = run(*fused, chunks);
    EXPECT_LT(relative(got, run(*plain, chunks)), 2e-2) << "chunks of " << chunks[0] << " …";
    EXPECT_EQ(got, run(*fused, chunks)) << "again";
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GpuFused);
INSTANTIATE_TEST_SUITE_P(Models, GpuFused,
                         ::testing::Combine(
                             ::testing::ValuesIn(test::gpus()),
                             ::testing::Range(0, static_cast<int>(std::size(test::kRandomModels)))),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           std::ranges::replace(name, ':', '_');
                           return name + "_" + test::kRandomModels[std::get<1>(info.param)].name;
                         });

}  // namespace
}  // namespace limpet::engine
