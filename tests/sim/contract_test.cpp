// KV by contract, with the real cores and page tables in simulated time: large sessions that take
// turns with long pauses while small ones come and go, on a worker that holds one large one.
#include <gtest/gtest.h>

#include "tests/sim/broker_process.h"
#include "tests/sim/client_process.h"
#include "tests/sim/worker_process.h"

namespace limpet::sim {
namespace {

constexpr int64_t kPool = 1600;           // tokens of KV
constexpr int64_t kAgent = kPool * 9 / 10;  // of each large session
constexpr int kAgents = 4, kTurns = 6, kSmall = 50;
constexpr int64_t kDeadlineMs = 20'000;

class Stage {
 public:
  explicit Stage(uint64_t seed, int workers = 1) : world_(seed, Plant::none, false) {
    world_.scene = Scene{};
    world_.scene.workers = workers;
    world_.scene.slots = 8;
    world_.scene.pages = kPool / 4;
    world_.scene.max_context = kPool;
    world_.scene.core.heartbeat = milliseconds(100);
    broker_ = std::make_unique<BrokerProcess>(
        world_, [this](auto, auto m) { world_.carry([this, m] { client_->arrives(m); }); },
        [this](auto id, auto m) {
          world_.carry([this, id, m] { workers_[raw(id) % 100]->arrives(m); });
        });
    for (int w = 0; w < workers; ++w) {
      workers_.push_back(std::make_unique<WorkerProcess>(
          world_, "w" + std::to_string(w), [this, w](WorkerMessage m) {
            const WorkerProcess& worker = *workers_[static_cast<size_t>(w)];
            auto origin =
                std::make_shared<Origin>(Origin{worker.name(), worker.incarnation(), m});
            world_.carry([this, w, origin, m] {
              broker_->arrives(broker::WorkerEvent{broker::WorkerId{1000000 + uint64_t(w)}, m},
                               origin);
            });
          }));
    }
    client_ = std::make_unique<ClientProcess>(
        world_, [this](ClientMessage m) { ask(std::move(m)); }, [] {});
    for (auto& worker : workers_) worker->start();
  }

  void ask(ClientMessage m) {
    world_.carry([this, m = std::move(m)] {
      broker::ClientEvent e{broker::ClientId{100}, m, 0, {}};
      if (const auto* s = std::get_if<Submit>(&m)) e.body_hash = s->spec->tokens.size();
      broker_->arrives(std::move(e));
    });
  }
  void turn(const std::string& id, const std::string& session, int64_t prompt, int32_t output,
            int64_t at_ms, int64_t cap = 0, int64_t keep_alive_ms = -1) {
    auto spec = std::make_shared<JobSpec>();
    spec->job_id = id;
    spec->session = session;
    spec->kind = InputKind::tokens;
    for (int64_t i = 0; i < prompt; ++i) {
      spec->tokens.push_back(static_cast<Token>(world_.rng.between(1, 900)));
    }
    spec->max_tokens = output;
    spec->sampling.seed = world_.rng.next();
    spec->deadline_ms = kDeadlineMs;
    spec->session_max_tokens = cap;
    spec->keep_alive_ms = keep_alive_ms;
    client_->want(spec, at_ms);
  }
  void release(const std::string& session, int64_t at_ms) {
    world_.in(at_ms, [this, session] { ask(Release{session}); });
  }
  void run() {
    while (!client_->all_done()) {
      ASSERT_LT(world_.ms(), 600'000) << client_->first_open();
      ASSERT_TRUE(world_.run_next());
    }
  }
  const ReferenceStore::Job& job(const std::string& id) { return *broker_->disk().find(id); }
  const ReferenceStore& disk() { return broker_->disk(); }

 private:
  World world_;
  std::unique_ptr<BrokerProcess> broker_;
  std::vector<std::unique_ptr<WorkerProcess>> workers_;
  std::unique_ptr<ClientProcess> client_;
};

std::string turn_id(int agent, int turn) {
  return "agent" + std::to_string(agent) + "-" + std::to_string(turn);
}

// Each begins large and grows by little; one turn of each in every round, then a pause.
void play_agents(Stage& s, int64_t pause_ms) {
  for (int a = 0; a < kAgents; ++a) {
    for (int t = 0; t < kTurns; ++t) {
      s.turn(turn_id(a, t), "agent" + std::to_string(a), t == 0 ? kAgent - 150 : 8, 12,
             t * pause_ms + a * 40, kAgent);
    }
  }
}

// Whoever prefills more than its own input is told why.
void expect_reasons(const Stage&, const ReferenceStore::Job& job) {
  for (const broker::StartedEntry& start : job.starts) {
    const bool prefills = start.residency == Residency::reprefilled;
    EXPECT_EQ(prefills, start.reason != Reason::none) << job.accepted.spec->job_id;
    if (prefills) {
      EXPECT_EQ(start.reason, start.base_tokens == 0 ? Reason::new_session : Reason::evicted)
          << job.accepted.spec->job_id;
    }
  }
}

TEST(Contract, LargeSessionsThatTakeTurnsAndSmallOnesThatComeAndGoStarveNobody) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    Stage s(seed);
    constexpr int64_t kPause = 2500;
    play_agents(s, kPause);
    for (int i = 0; i < kSmall; ++i) {
      const std::string name = "small" + std::to_string(i);
      const int64_t at = i * (kTurns * kPause) / kSmall;
      s.turn(name + "-0", name, 20, 10, at);
      s.turn(name + "-1", name, 6, 10, at + 400);
    }
    s.run();
    double longest = 0;
    int agents_evicted = 0;
    for (const auto& [number, job] : s.disk().jobs()) {
      const std::string& id = job.accepted.spec->job_id;
      ASSERT_EQ(job.state, JobState::finished) << id << " of seed " << seed;
      expect_reasons(s, job);
      longest = std::max(longest, job.end->timings.first_token);
      const bool agent = id.starts_with("agent");
      agents_evicted += agent && job.starts.back().reason == Reason::evicted;
    }
    EXPECT_LT(longest, kDeadlineMs / 1000.0) << "seed " << seed;
    // There is room for one of the four, so that nearly each of their later turns prefills.
    EXPECT_GT(agents_evicted, kAgents * (kTurns - 2)) << "seed " << seed;
  }
}

TEST(Contract, WhatAsksForATimeGivesWayLast) {
  Stage s(7);
  s.turn("kept-0", "kept", 700, 12, 0, 0, 60'000);
  for (int i = 0; i < 20; ++i) {  // more than there is room for
    s.turn("small" + std::to_string(i), "small" + std::to_string(i), 60, 12, 800 + i * 100);
  }
  s.turn("kept-1", "kept", 8, 12, 6000);
  s.turn("small-again", "small0", 8, 12, 7000);
  s.run();
  EXPECT_EQ(s.job("kept-1").starts.back().residency, Residency::resident);
  EXPECT_EQ(s.job("small-again").starts.back().reason, Reason::evicted);
}

TEST(Contract, AReleasedSessionMakesRoomWithoutAnEviction) {
  for (const bool release : {false, true}) {
    Stage s(8);
    s.turn("old", "old", 200, 12, 0);
    s.turn("large-0", "large", 1000, 12, 1000);
    if (release) s.release("large", 3000);
    s.turn("next", "next", 500, 12, 4000);
    s.turn("old-again", "old", 8, 12, 6000);
    s.turn("large-1", "large", 8, 12, 7000);
    s.run();
    // The longest idle gives way first, unless somebody else has given up its own.
    EXPECT_EQ(s.job("old-again").starts.back().residency,
              release ? Residency::resident : Residency::reprefilled);
    if (release) {
      EXPECT_EQ(s.job("large-1").starts.back().reason, Reason::evicted);
    }
  }
}

TEST(Contract, ATurnBeyondTheCapFailsAndTheSessionGoesOn) {
  Stage s(9);
  s.turn("a", "chat", 50, 10, 0, 80);
  s.turn("b", "chat", 40, 10, 1000);
  s.turn("c", "chat", 5, 30, 2000);
  s.run();
  ASSERT_EQ(s.job("b").state, JobState::failed);
  EXPECT_EQ(s.job("b").end->code, ErrorCode::too_long);
  ASSERT_EQ(s.job("c").state, JobState::finished);
  EXPECT_LE(s.job("c").base + 5 + std::ssize(s.job("c").output), 80);
}

}  // namespace
}  // namespace limpet::sim
