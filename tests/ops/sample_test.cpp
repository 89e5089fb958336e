// The op draws what engine::sample draws.
#include "engine/sampling.h"
#include "ops/sample/sample.h"
#include "tests/ops/run_op.h"

namespace limpet::test {
namespace {

using ops::DrawnToken;
using ops::DrawSpec;
using ops::DrawStatus;

struct Batch {
  int64_t vocab = 0;
  std::vector<float> logits{};
  std::vector<DrawSpec> draws{};
  std::vector<std::vector<Token>> contexts{};  // of slot i
  int64_t rows() const { return std::ssize(draws); }
};

std::vector<int32_t> words_of(const void* from, size_t bytes) {
  std::vector<int32_t> words(bytes / 4);
  std::memcpy(words.data(), from, bytes);
  return words;
}

struct Outcome {
  std::vector<DrawnToken> drawn;
  std::vector<int32_t> context;
};

Outcome run_sample(Backend& backend, const Batch& b, int32_t count = -1) {
  const int64_t words = (b.vocab + 31) / 32, slots = std::max<int64_t>(std::ssize(b.contexts), 1);
  std::vector<int32_t> context(static_cast<size_t>(slots * words));
  for (size_t s = 0; s < b.contexts.size(); ++s) {
    for (const Token t : b.contexts[s]) {
      auto& word = context[s * static_cast<size_t>(words) + static_cast<size_t>(t / 32)];
      word = static_cast<int32_t>(static_cast<uint32_t>(word) | 1u << (t % 32));
    }
  }
  Program p{.name = "sample"};
  p.values = {
      {.name = "logits", .shape = {b.rows(), b.vocab}, .kind = ValueKind::input},
      {.name = "draws", .dtype = DType::i32, .shape = {b.rows(), ops::kDrawWords},
       .kind = ValueKind::input},
      {.name = "context", .dtype = DType::i32, .shape = {slots, words}, .kind = ValueKind::handle},
      {.name = "drawn", .dtype = DType::i32, .shape = {b.rows(), ops::kDrawnWords},
       .kind = ValueKind::output},
      {.name = "counts", .dtype = DType::i32, .shape = {1}, .kind = ValueKind::input}};
  p.counts = 4;
  p.steps = {{.op = ops::Sample{}, .inputs = {0, 1, 2}, .outputs = {3}, .count = 0}};
  const auto rows = static_cast<int32_t>(b.rows());
  std::vector<std::unique_ptr<Buffer>> buffers;
  const Tensor all[] = {f32({b.rows(), b.vocab}, b.logits),
                        i32({b.rows(), ops::kDrawWords},
                            words_of(b.draws.data(), b.draws.size() * sizeof(DrawSpec))),
                        i32({slots, words}, context),
                        i32({b.rows(), ops::kDrawnWords},
                            std::vector<int32_t>(static_cast<size_t>(rows * ops::kDrawnWords), 7)),
                        i32({1}, {count < 0 ? rows : count})};
  const auto exe = backend.compile(p);
  for (const Tensor& t : all) {
    buffers.push_back(uploaded(backend, t));
    exe->bind(static_cast<ValueId>(buffers.size() - 1), *buffers.back());
  }
  exe->run();
  Outcome out;
  out.drawn.resize(b.draws.size());
  backend.read(*buffers[3], 0, out.drawn.data(), rows * int64_t{sizeof(DrawnToken)});
  out.context.resize(context.size());
  backend.read(*buffers[2], 0, out.context.data(), std::ssize(context) * 4);
  return out;
}

engine::SamplingOptions options_of(const DrawSpec& d) {
  return {d.temperature, d.top_p, d.top_k, d.min_p, d.penalty, d.seed, d.logprobs};
}

void expect_as_engine(const Batch& b, const Outcome& out) {
  for (int64_t r = 0; r < b.rows(); ++r) {
    const DrawSpec& d = b.draws[r];
    const auto context = d.context < 0 ? std::vector<Token>{} : b.contexts[d.context];
    const auto want =
        engine::sample(std::span(b.logits).subspan(r * b.vocab, b.vocab), context, options_of(d),
                       d.position);
    const DrawnToken& got = out.drawn[r];
    ASSERT_EQ(got.status, DrawStatus::drawn);
    EXPECT_EQ(got.token, want.token) << "row " << r << ", temperature " << d.temperature
                                     << ", top_k " << d.top_k << ", top_p " << d.top_p;
    if (d.logprobs < 0) continue;
    EXPECT_NEAR(got.logprob, want.logprob, 1e-4);
    ASSERT_EQ(got.told, std::ssize(want.top));
    for (size_t i = 0; i < want.top.size(); ++i) {
      EXPECT_EQ(got.top[i].token, want.top[i].token);
      EXPECT_NEAR(got.top[i].logprob, want.top[i].logprob, 1e-4);
    }
  }
}

// Rows with and without each filter, the penalty and logprobs, over logits with many ties.
Batch mixed(int64_t vocab, uint64_t seed) {
  Random random(seed);
  Batch b{.vocab = vocab};
  for (const float temperature : {0.0f, 0.7f, 1.0f, 3.0f}) {
    for (const int32_t top_k : {0, 1, 7, 50, 100000}) {
      for (const float top_p : {1.0f, 0.9f, 0.3f, 0.01f}) {
        for (const float min_p : {0.0f, 0.2f}) {
          DrawSpec d{.draws = 1, .top_k = top_k, .temperature = temperature, .top_p = top_p,
                     .min_p = min_p};
          d.seed = seed + static_cast<uint64_t>(b.rows());
          d.position = 1000 + b.rows() * 31;
          if (b.rows() % 3 == 1) d.logprobs = static_cast<int32_t>(random.below(21));
          if (b.rows() % 4 == 2) {
            d.context = static_cast<int32_t>(b.contexts.size());
            d.penalty = b.rows() % 8 == 2 ? 1.3f : 0.5f;
            b.contexts.emplace_back();
            for (int i = 0; i < 20; ++i) {
              b.contexts.back().push_back(static_cast<Token>(random.below(vocab)));
            }
          }
          b.draws.push_back(d);
          for (int64_t i = 0; i < vocab; ++i) {
            const float l = random.one(6);
            b.logits.push_back(b.rows() % 2 == 0 ? std::round(l * 2) / 2 : l);
          }
          if (b.rows() % 5 == 0 && vocab > 1) b.logits[b.logits.size() - 1] = -INFINITY;
        }
      }
    }
  }
  return b;
}

using SampleTest = OnEveryDevice;

TEST_P(SampleTest, DrawsWhatTheEngineDraws) {
  for (const int64_t vocab : {1, 33, 1000, 4099}) {
    SCOPED_TRACE(vocab);
    const Batch b = mixed(vocab, 5);
    expect_as_engine(b, run_sample(*backend_, b));
  }
}

TEST_P(SampleTest, DrawsFromAllOfALargeVocabulary) {
  Random random(9);
  Batch b{.vocab = 151936};
  for (int i = 0; i < 8; ++i) {
    DrawSpec d{.draws = 1, .temperature = 1.0f, .top_p = i % 2 == 0 ? 1.0f : 0.95f};
    d.seed = 77;
    d.position = i;
    b.draws.push_back(d);
    for (int64_t j = 0; j < b.vocab; ++j) b.logits.push_back(random.one(3));
  }
  expect_as_engine(b, run_sample(*backend_, b));
}

TEST_P(SampleTest, RowsThatCannotBeDrawnFromSayWhy) {
  Batch b{.vocab = 40, .draws = std::vector<DrawSpec>(5, {.draws = 1, .temperature = 1})};
  b.logits.assign(5 * 40, 0.5f);
  b.logits[0 * 40 + 3] = NAN;
  b.logits[1 * 40 + 39] = INFINITY;
  std::fill_n(b.logits.begin() + 2 * 40, 40, -INFINITY);
  b.draws[3].draws = 0;
  const Outcome out = run_sample(*backend_, b, 4);
  EXPECT_EQ(out.drawn[0].status, DrawStatus::not_finite);
  EXPECT_EQ(out.drawn[1].status, DrawStatus::not_finite);
  EXPECT_EQ(out.drawn[2].status, DrawStatus::nothing);
  EXPECT_EQ(out.drawn[3].status, DrawStatus::drawn);
  EXPECT_EQ(out.drawn[3].token, 0);
  EXPECT_EQ(out.drawn[4].token, 7) << "beyond the count, yet written";
}

TEST_P(SampleTest, TheDrawnTokenJoinsThePenaltysContext) {
  Batch b{.vocab = 70, .draws = {{.draws = 1, .context = 1, .penalty = 2.0f}}};
  b.logits.assign(70, 0.0f);
  b.logits[65] = 3.0f;
  b.logits[2] = 4.0f;
  b.contexts = {{5}, {2}};
  const Outcome out = run_sample(*backend_, b);
  EXPECT_EQ(out.drawn[0].token, 65);
  EXPECT_EQ(out.context, (std::vector<int32_t>{1 << 5, 0, 0, 1 << 2, 0, 1 << 1}));
}

using AdvanceTest = OnEveryDevice;

TEST_P(AdvanceTest, RowsThatGoOnMoveTogether) {
  const int64_t rows = 5;
  std::vector<DrawnToken> drawn(rows);
  std::vector<DrawSpec> draws(rows);
  for (int64_t i = 0; i < rows; ++i) {
    drawn[i].token = static_cast<int32_t>(100 + i);
    draws[i] = {.draws = 1, .top_k = static_cast<int32_t>(i)};
    draws[i].position = 10 * i;
  }
  drawn[2].status = DrawStatus::not_finite;
  Program p{.name = "advance"};
  const auto value = [&](const char* name, Shape shape, ValueKind kind) {
    p.values.push_back({.name = name, .dtype = DType::i32, .shape = shape, .kind = kind});
  };
  value("drawn", {rows, ops::kDrawnWords}, ValueKind::input);
  value("from", {rows}, ValueKind::input);
  value("token_ids", {rows}, ValueKind::handle);
  value("positions", {rows}, ValueKind::handle);
  value("draws", {rows, ops::kDrawWords}, ValueKind::handle);
  value("counts", {1}, ValueKind::input);
  p.counts = 5;
  p.steps = {{.op = ops::Advance{}, .inputs = {0, 1}, .outputs = {2, 3, 4}, .count = 0}};
  const Tensor all[] = {
      i32({rows, ops::kDrawnWords}, words_of(drawn.data(), rows * sizeof(DrawnToken))),
      i32({rows}, {0, 2, 4, 0, 0}),
      i32({rows}, {1, 2, 3, 4, 5}),
      i32({rows}, {20, 30, 40, 50, 60}),
      i32({rows, ops::kDrawWords}, words_of(draws.data(), rows * sizeof(DrawSpec))),
      i32({1}, {3})};
  std::vector<std::unique_ptr<Buffer>> buffers;
  const auto exe = backend_->compile(p);
  for (const Tensor& t : all) {
    buffers.push_back(uploaded(*backend_, t));
    exe->bind(static_cast<ValueId>(buffers.size() - 1), *buffers.back());
  }
  exe->run();
  std::vector<int32_t> ids(rows), positions(rows);
  backend_->read(*buffers[2], 0, ids.data(), rows * 4);
  backend_->read(*buffers[3], 0, positions.data(), rows * 4);
  backend_->read(*buffers[4], 0, draws.data(), rows * int64_t{sizeof(DrawSpec)});
  EXPECT_EQ(ids, (std::vector<int32_t>{100, 0, 104, 4, 5}));
  EXPECT_EQ(positions, (std::vector<int32_t>{21, 41, 61, 50, 60}));
  EXPECT_EQ(draws[1].top_k, 2);
  EXPECT_EQ(draws[2].position, 41);
  EXPECT_EQ(draws[3].position, 30);
}

LIMPET_ON_EVERY_DEVICE(SampleTest);
LIMPET_ON_EVERY_DEVICE(AdvanceTest);

}  // namespace
}  // namespace limpet::test
