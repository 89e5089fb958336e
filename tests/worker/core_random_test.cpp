// Random schedules against a broker that is never wrong: whatever the pool, the budget and the
// order of events, every job ends with what an undisturbed worker would have said.
#include <algorithm>
#include <random>

#include "tests/worker/rig.h"

namespace limpet::worker {
namespace {

struct Lane {  // the broker's view of one session
  std::vector<Token> transcript;
  Epoch epoch{1};
  uint64_t running = 0;
  Attempt attempt{};
  Dispatch dispatch;
  std::vector<Token> prompt;
  bool prompt_known = false;
  std::vector<Token> output;
  bool ended = false;
  bool failed = false;
};

class Broker {
 public:
  Broker(uint64_t seed, CoreOptions options, int32_t pages)
      : rng_(seed), rig_(std::move(options), pages), lanes_(1 + seed % 7) {
    if (seed % 2 == 0) rig_.end_token = 13;
  }

  void run(int events) {
    for (int i = 0; i < events; ++i) {
      rig_.now += std::chrono::milliseconds(draw(30));
      act();
      hear();
      check_pages();
      if (testing::Test::HasFatalFailure()) return;
    }
    for (int i = 0; i < 20000 && busy(); ++i) {
      if (!rig_.moves.empty()) rig_.finish_move();
      rig_.turn();
      rig_.now += 20ms;
      rig_.give(Tick{});
      hear();
    }
    EXPECT_FALSE(busy()) << "a job does not end";
    for (size_t s = 0; s < lanes_.size(); ++s) {
      rig_.tell(ReleaseSession{SessionNumber{s + 1}, lanes_[s].epoch});
    }
    rig_.finish_moves();
    const Tiers::Gauges tiers = rig_.core->gauges().tiers;
    EXPECT_EQ(tiers.pages_used[0] + tiers.pages_used[1] + tiers.spare_pages, 0);
    EXPECT_EQ(tiers.sessions[0] + tiers.sessions[1] + tiers.tokens[0] + tiers.tokens[1], 0);
    EXPECT_EQ(rig_.kv.sequences(), 0);
    EXPECT_EQ(rig_.kv.free_pages(), rig_.kv.total_pages());
    EXPECT_TRUE(rig_.open.empty());
  }

  int64_t finished = 0, preempted = 0, evicted = 0, retried = 0, cancelled = 0, restored = 0;
  Tiers::Gauges tiers;
  void count() {
    preempted = rig_.core->gauges().preemptions;
    evicted = rig_.core->gauges().evictions;
    tiers = rig_.core->gauges().tiers;
  }

 private:
  uint64_t draw(uint64_t below) { return rng_() % below; }

  void act() {
    Lane& lane = lanes_[draw(lanes_.size())];
    switch (draw(12)) {
      case 0:
      case 1:
      case 2:
        if (lane.running == 0) submit(lane);
        break;
      case 3:
        if (lane.running != 0 && draw(4) == 0) cancel(lane);
        break;
      case 4:
        if (lane.running != 0 && draw(3) == 0) retry(lane);
        break;
      case 5:
        rig_.give(Tick{});
        break;
      case 6:
        if (draw(10) == 0) rig_.tell(WhoAreYou{});
        break;
      default:
        if (!rig_.moves.empty() && draw(2) == 0) {
          const int64_t pages = std::ssize(rig_.moves.front().pages);
          rig_.finish_move(draw(12) == 0 ? static_cast<int64_t>(draw(pages + 1)) : pages);
        } else {
          rig_.turn();
        }
    }
  }

  void submit(Lane& lane) {
    if (draw(5) == 0) lane.transcript.resize(draw(lane.transcript.size() + 1));  // rewind
    std::vector<Token> prompt(1 + draw(12));
    const bool common = draw(3) == 0;
    for (size_t i = 0; i < prompt.size(); ++i) {
      prompt[i] = common ? static_cast<Token>(i) : static_cast<Token>(draw(kVocab));
    }
    const auto session = static_cast<uint64_t>(&lane - lanes_.data()) + 1;
    lane.running = ++jobs_;
    lane.attempt = Attempt{0};
    lane.prompt = prompt;
    lane.prompt_known = lane.ended = lane.failed = false;
    lane.output.clear();
    lane.dispatch = rig_.dispatch(jobs_, session, prompt, std::ssize(lane.transcript),
                                  static_cast<int32_t>(1 + draw(20)));
    send(lane);
  }

  void send(Lane& lane) {
    Dispatch& d = lane.dispatch;
    lane.attempt = d.attempt = Attempt{raw(lane.attempt) + 1};
    d.has_transcript = draw(4) == 0;
    if (draw(6) == 0) {
      d.epoch = lane.epoch = Epoch{raw(lane.epoch) + 1};
      d.home_reason = Reason::worker_lost;
    } else {
      d.epoch = lane.epoch;
      d.home_reason = Reason::none;
    }
    d.prompt_tokens = lane.prompt_known ? std::ssize(lane.prompt) : -1;
    d.output_tokens = std::ssize(lane.output);
    d.transcript = d.has_transcript ? transcript(lane) : std::vector<Token>{};
    rig_.tell(d);
  }

  static std::vector<Token> transcript(const Lane& lane) {
    std::vector<Token> all = lane.transcript;
    if (!lane.prompt_known) return all;
    all.insert(all.end(), lane.prompt.begin(), lane.prompt.end());
    all.insert(all.end(), lane.output.begin(), lane.output.end());
    return all;
  }

  void retry(Lane& lane) {
    ++retried;
    // Some of what it said got lost on the way.
    lane.output.resize(lane.output.size() - draw(std::min<size_t>(lane.output.size(), 3) + 1));
    send(lane);
  }

  void cancel(Lane& lane) {
    ++cancelled;
    lane.output.resize(lane.output.size() - draw(std::min<size_t>(lane.output.size(), 3) + 1));
    rig_.tell(CancelJob{JobNumber{lane.running}, lane.attempt});
    close(lane);
  }

  void close(Lane& lane) {
    if (!lane.failed) lane.transcript = transcript(lane);
    lane.running = 0;
  }

  Lane* lane_of(JobNumber job, Attempt attempt) {
    for (Lane& lane : lanes_) {
      if (lane.running == raw(job) && lane.attempt == attempt) return &lane;
    }
    return nullptr;
  }

  void hear() {
    for (size_t i = 0; i < rig_.sent.size(); ++i) {
      const WorkerMessage m = rig_.sent[i];
      std::visit([&](const auto& one) { heard(one); }, m);
    }
    rig_.sent.clear();
  }

  void heard(const Register& m) {
    Registered answer{.incarnation = m.incarnation,
                      .heartbeat_ms = 100,
                      .lease_ms = 1000,
                      .release = {},
                      .resume = {},
                      .drop = {}};
    for (const HeldJob& held : m.jobs) {
      const Lane* lane = lane_of(held.job, held.attempt);
      auto& list = lane != nullptr ? answer.resume : answer.drop;
      list.push_back({held.job, held.attempt, lane != nullptr ? std::ssize(lane->output) : 0});
    }
    rig_.tell(answer);
  }
  void heard(const Heartbeat& m) {
    EXPECT_GE(m.room.slots, 0);
    for (const HeldJob& held : m.jobs) {
      if (lane_of(held.job, held.attempt) == nullptr) rig_.tell(EndAck{held.job, held.attempt});
    }
  }
  void heard(const NeedTranscript& m) {
    const Lane* lane = lane_of(m.job, m.attempt);
    if (lane != nullptr) rig_.tell(TranscriptReply{m.job, m.attempt, transcript(*lane)});
  }
  void heard(const JobStarted& m) {
    Lane* lane = lane_of(m.job, m.attempt);
    if (lane == nullptr) return;
    if (lane->dispatch.prompt_tokens < 0) {
      EXPECT_EQ(m.prompt, lane->prompt);
    }
    lane->prompt_known = true;
    const int64_t all =
        std::ssize(lane->transcript) + std::ssize(lane->prompt) + lane->dispatch.output_tokens;
    EXPECT_EQ(m.cached_tokens + m.prefilled_tokens, all);
    if (m.residency == Residency::resident) {
      EXPECT_GE(m.cached_tokens, lane->dispatch.base_tokens - 1);
      EXPECT_EQ(m.reason, Reason::none);
    } else if (m.residency == Residency::restored) {
      ++restored;
      EXPECT_GE(m.cached_tokens, lane->dispatch.base_tokens - 1);
      EXPECT_EQ(m.reason, Reason::none);
    } else {
      EXPECT_NE(m.reason, Reason::none);
    }
  }
  void heard(const StepTokens& m) {
    for (const auto& row : m.rows) {
      Lane* lane = lane_of(row.job, row.attempt);
      if (lane == nullptr) continue;
      ASSERT_LE(row.first_index, std::ssize(lane->output)) << "a gap";
      lane->output.resize(static_cast<size_t>(row.first_index));
      lane->output.insert(lane->output.end(), row.ids.begin(), row.ids.end());
    }
  }
  void heard(const JobEnded& m) {
    Lane* lane = lane_of(m.job, m.attempt);
    rig_.tell(EndAck{m.job, m.attempt});
    if (lane == nullptr) return;
    if (!m.ok) {
      EXPECT_EQ(m.code, ErrorCode::too_long) << m.message;
      lane->failed = true;
      close(*lane);
      lane->transcript.clear();  // so that the session can go on
      return;
    }
    ++finished;
    EXPECT_EQ(m.output_tokens, std::ssize(lane->output));
    std::vector<Token> before = lane->transcript;
    before.insert(before.end(), lane->prompt.begin(), lane->prompt.end());
    EXPECT_EQ(lane->output, undisturbed(before, raw(m.job), m.output_tokens));
    if (m.reason == FinishReason::stop) {
      EXPECT_EQ(lane->output.back(), rig_.end_token);
    }
    close(*lane);
  }
  void heard(const SessionDropped&) {}
  void heard(const Leaving&) {}
  void heard(const SessionReceived&) {}
  void heard(const HandOverFailed&) {}

  void check_pages() {
    // A move to or from the device has a sequence of its own.
    ASSERT_LE(rig_.kv.sequences(), std::ssize(lanes_) + std::ssize(rig_.moves));
    ASSERT_GE(rig_.kv.free_pages(), 0);
  }
  bool busy() const {
    return std::ranges::any_of(lanes_, [](const Lane& lane) { return lane.running != 0; });
  }

  std::mt19937_64 rng_;
  Rig rig_;
  std::vector<Lane> lanes_;
  uint64_t jobs_ = 0;
};

TEST(Random, EveryJobEndsWithWhatAnUndisturbedWorkerSays) {
  int64_t finished = 0, preempted = 0, evicted = 0, retried = 0, cancelled = 0;
  for (uint64_t seed = 0; seed < 1500 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CoreOptions options;
    options.max_context = 60 + static_cast<int64_t>(seed % 50);
    options.max_jobs = 8;
    options.token_budget = 1 + static_cast<int32_t>(seed % 13);
    options.prefill_chunk = 1 + static_cast<int32_t>(seed % 6);
    Broker broker(seed, options, 6 + static_cast<int32_t>(seed % 20));
    broker.run(300);
    broker.count();
    finished += broker.finished;
    preempted += broker.preempted;
    evicted += broker.evicted;
    retried += broker.retried;
    cancelled += broker.cancelled;
  }
  EXPECT_GT(finished, 10000);
  EXPECT_GT(preempted, 500);
  EXPECT_GT(evicted, 1000);
  EXPECT_GT(retried, 500);
  EXPECT_GT(cancelled, 500);
  RecordProperty("finished", static_cast<int>(finished));
  RecordProperty("preempted", static_cast<int>(preempted));
}

// The same where KV goes below the device and back, by moves that take their time, and fail.
TEST(Random, TiersBelowTheDeviceChangeNoToken) {
  int64_t finished = 0, restored = 0, preempted = 0;
  Tiers::Gauges sum;
  for (uint64_t seed = 0; seed < 1500 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CoreOptions options;
    options.max_context = 60 + static_cast<int64_t>(seed % 50);
    options.max_jobs = 8;
    options.token_budget = 1 + static_cast<int32_t>(seed % 13);
    options.prefill_chunk = 1 + static_cast<int32_t>(seed % 6);
    options.tiers = {.host_pages = 1 + static_cast<int64_t>(seed % 31),
                     .disk_pages = seed % 3 == 0 ? 0 : static_cast<int64_t>(seed % 41),
                     .least_tokens = static_cast<int64_t>(seed % 9)};
    Broker broker(seed, options, 6 + static_cast<int32_t>(seed % 20));
    broker.run(300);
    broker.count();
    finished += broker.finished;
    restored += broker.restored;
    preempted += broker.preempted;
    for (size_t t = 0; t < 2; ++t) {
      sum.restored[t] += broker.tiers.restored[t];
      sum.damaged[t] += broker.tiers.damaged[t];
    }
    sum.demoted += broker.tiers.demoted;
    sum.demote_failed += broker.tiers.demote_failed;
    sum.spill_failed += broker.tiers.spill_failed;
    sum.gone += broker.tiers.gone;
  }
  EXPECT_GT(finished, 10000);
  EXPECT_GT(restored, 1000);
  EXPECT_GT(preempted, 200);
  EXPECT_GT(sum.restored[0], 1000);
  EXPECT_GT(sum.restored[1], 200);
  EXPECT_GT(sum.damaged[0] + sum.damaged[1], 100);
  EXPECT_GT(sum.demoted, 500);
  EXPECT_GT(sum.demote_failed, 50);
  EXPECT_GT(sum.spill_failed, 100);
  EXPECT_GT(sum.gone, 500);
}

}  // namespace
}  // namespace limpet::worker
