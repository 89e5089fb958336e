// Jobs that come, end early, end by their limit, and follow each other in one sequence get the
// tokens that they get alone, whatever was begun ahead.
#include "worker/lookahead.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <tuple>

#include "tests/gpu/gpus.h"

namespace limpet::worker {
namespace {

using engine::Engine;
using engine::SequenceId;

std::vector<std::string> devices() {
  auto all = test::gpus();
  all.push_back("cpu");
  return all;
}

std::unique_ptr<Engine> open(const std::string& device) {
  engine::EngineOptions o;
  o.model_dir = "models/limpet-tiny";
  o.device = device;
  o.precision = engine::Precision::f32;
  o.kv_pages = 40;  // little enough that freed pages are used again at once
  o.max_rows = 64;
  o.max_sequences = 16;
  o.threads = 2;
  o.share_prefixes = false;
  return Engine::open(o);
}

// A job as a core would serve it: `stop_after` tokens it turns out to be at its end, which nobody
// knows before; or `limit` is reached, which the row says.
struct Job {
  uint64_t number = 0;
  int64_t arrives = 0, limit = 0, stop_after = 1 << 20;
  std::vector<Token> prompt;
  std::optional<SequenceId> sequence;
  std::vector<Token> missing;  // tokens of the session without KV
  int64_t session = 0;         // its tokens
  std::vector<Token> output;
  bool over() const {
    return std::ssize(output) >= std::min(limit, stop_after);
  }
};

engine::SamplingOptions sampling(uint64_t number) {
  return {.temperature = number % 3 == 0 ? 0.0f : 1.4f, .seed = number};
}

std::vector<Token> alone(Engine& e, const Job& job) {
  std::vector<Token> out, next = job.prompt;
  const SequenceId s = e.kv().create(0);
  while (std::ssize(out) < std::min(job.limit, job.stop_after)) {
    EXPECT_TRUE(e.kv().reserve(s, std::ssize(next)));
    const auto r = e.step({{s, next, engine::Want::last}});
    EXPECT_TRUE(r.ok()) << r.error;
    next = {engine::sample(r.row(0), {}, sampling(job.number), e.kv().length(s)).token};
    out.push_back(next[0]);
  }
  e.kv().destroy(s);
  return out;
}

std::vector<Job> jobs_of(uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<Job> jobs(14);
  for (size_t i = 0; i < jobs.size(); ++i) {
    Job& job = jobs[i];
    job.number = i + 1;
    job.arrives = static_cast<int64_t>(rng() % 30);
    job.limit = 2 + static_cast<int64_t>(rng() % 14);
    if (rng() % 2 == 0) job.stop_after = 1 + static_cast<int64_t>(rng() % 9);
    job.prompt.resize(3 + rng() % 20);
    for (Token& t : job.prompt) t = static_cast<Token>(rng() % 380);
    job.missing = job.prompt;
    job.session = std::ssize(job.prompt);
  }
  return jobs;
}

// The rows of one step: all that decode, and prompts in chunks of 8.
Step plan(Engine& e, std::vector<Job>& jobs, int64_t now) {
  Step step;
  for (Job& job : jobs) {
    if (job.arrives > now || job.over()) continue;
    if (!job.sequence) job.sequence = e.kv().create(0);
    const auto n = static_cast<int64_t>(std::min<size_t>(job.missing.size(), 8));
    if (step.rows.size() == 6 || !e.kv().reserve(*job.sequence, n)) continue;
    step.rows.push_back({.job = JobNumber{job.number},
                         .attempt = Attempt{1},
                         .sequence = *job.sequence,
                         .tokens = {job.missing.begin(), job.missing.begin() + n},
                         .sample = n == std::ssize(job.missing),
                         .position = job.session,
                         .last = std::ssize(job.output) + 1 >= job.limit});
  }
  return step;
}

using Case = std::tuple<std::string, bool>;
class LookaheadTest : public ::testing::TestWithParam<Case> {};

TEST_P(LookaheadTest, EveryJobGetsTheTokensThatItGetsAlone) {
  const auto [device, split] = GetParam();
  const auto e = open(device);
  for (const uint64_t seed : {1, 2, 3}) {
    std::vector<Job> jobs = jobs_of(seed);
    std::map<uint64_t, std::vector<Token>> want;
    for (const Job& job : jobs) want[job.number] = alone(*e, job);
    Lookahead lookahead(*e, split);
    for (int64_t now = 0; now < 400; ++now) {
      const Step step = plan(*e, jobs, now);
      if (step.empty()) {
        lookahead.settle();
        continue;
      }
      const auto out =
          lookahead.run(step, [](const StepRow& row) { return sampling(raw(row.job)); });
      ASSERT_EQ(out.error, "");
      for (size_t i = 0; i < step.rows.size(); ++i) {
        Job& job = jobs[raw(step.rows[i].job) - 1];
        job.missing.erase(job.missing.begin(),
                          job.missing.begin() + std::ssize(step.rows[i].tokens));
        if (!step.rows[i].sample) continue;
        ASSERT_TRUE(out.rows[i].ok()) << out.rows[i].error;
        ASSERT_EQ(e->kv().length(*job.sequence), job.session);
        job.output.push_back(out.rows[i].token);
        job.missing = {out.rows[i].token};
        ++job.session;
        if (job.over()) e->kv().destroy(*job.sequence);
      }
    }
    lookahead.settle();
    for (const Job& job : jobs) {
      EXPECT_EQ(job.output, want[job.number]) << "seed " << seed << ", job " << job.number;
    }
    EXPECT_GT(lookahead.ahead_steps(), 10);
    EXPECT_GT(lookahead.wasted_rows(), 0) << "no end came as a surprise";
    EXPECT_EQ(lookahead.split_steps() > 0, split);
    EXPECT_EQ(lookahead.after_steps() > 0, split);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, LookaheadTest,
                         ::testing::Combine(::testing::ValuesIn(devices()), ::testing::Bool()),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           if (std::get<1>(info.param)) name += "_split";
                           std::ranges::replace(name, ':', '_');
                           return name;
                         });

}  // namespace
}  // namespace limpet::worker
