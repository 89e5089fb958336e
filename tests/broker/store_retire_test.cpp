// What the store gives up, what it never does, and failed jobs that are done again.
#include <gmock/gmock.h>

#include <filesystem>

#include "broker/store.h"
#include "tests/broker/journal_reference.h"
#include "tests/broker/scratch_folder.h"

namespace limpet::broker {
namespace {

namespace fs = std::filesystem;

class StoreRetireTest : public testing::Test {
 protected:
  // Small bounds, so that a short run folds, sweeps and cuts the log many times.
  Store::Options options() const { return {folder_ + "/data", 16, 2000, 1000}; }

  ScratchFolder scratch_;
  const std::string& folder_ = scratch_.path();
};

TEST_F(StoreRetireTest, AFailedJobIsDoneAgainUnderItsId) {
  auto store = Store::open(options());
  auto spec = std::make_shared<JobSpec>();
  spec->job_id = "j";
  spec->session = "chat";
  spec->text = "hello";
  JobEndedEntry failed;
  failed.job = JobNumber(1);
  failed.state = JobState::failed;
  failed.code = ErrorCode::worker_error;
  failed.message = "no memory";
  const SessionNumber chat{1};
  store->commit(std::vector<JournalEntry>{SessionOpened{chat, "chat"},
                                          JobAccepted{JobNumber(1), chat, spec, 5, 6, 7, 0}});
  store->commit(std::vector<JournalEntry>{
      HomeSet{chat, Epoch(1), "w1", 11, Reason::new_session, 7},
      JobDispatched{JobNumber(1), Attempt(1)}, failed});
  const std::string nobody;
  List ask;
  ask.states = 1u << raw(JobState::failed);
  ASSERT_EQ(store->ended_jobs(ask, 10, &nobody).jobs.size(), 1u);
  EXPECT_EQ(store->ended_jobs(ask, 10, &nobody).jobs[0].code, ErrorCode::worker_error);
  EXPECT_EQ(store->ended_jobs(ask, 10, &nobody).jobs[0].session, "chat");
  EXPECT_EQ(store->ended_jobs(ask, 10, &nobody).jobs[0].worker, "w1");  // it failed before a start
  EXPECT_FALSE(store->progress(JobNumber(1))->started);
  for (uint64_t number = 2; number <= 3; ++number) {  // it may fail more than once
    const auto body = store->body(JobNumber(number - 1));
    ASSERT_NE(body, nullptr);
    EXPECT_EQ(*body, *spec);
    store->commit(std::vector<JournalEntry>{
        JobAccepted{JobNumber(number), chat, body, 5, 6, 7, 0, JobNumber(number - 1)}});
    store.reset();
    store = Store::open(options());
    EXPECT_EQ(store->find_job("", "j")->job, JobNumber(number));
    EXPECT_EQ(store->find_job("", "j")->state, JobState::queued);
    EXPECT_TRUE(store->ended_jobs({}, 10, &nobody).jobs.empty());
    EXPECT_TRUE(store->ended_jobs({}, 10, nullptr).jobs.empty());
    failed.job = JobNumber(number);
    store->commit(std::vector<JournalEntry>{failed});
    EXPECT_EQ(store->ended_jobs({}, 10, nullptr).jobs.size(), 1u);
  }
}

TEST_F(StoreRetireTest, RetentionTakesWhatNoOpenSessionNeedsAndNothingElse) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    fs::remove_all(folder_ + "/data");
    ReferenceWorld world(seed);
    auto store = Store::open(options());
    for (int commit = 0; commit < 300; ++commit) store->commit(world.make_commit());
    WallMs now = 1'000'000;
    int64_t taken = 0;
    for (int bite = 0; bite < 150; ++bite) {
      const Store::Retired done = store->retire({.jobs_ms = 1}, now += 2000);
      EXPECT_LE(done.by_age, 256);
      EXPECT_EQ(done.by_size, 0);
      taken += done.by_age;
      if (bite < 50) store->commit(world.make_commit());
    }
    EXPECT_GT(taken, 20);
    for (const bool reopened : {false, true}) {
      if (reopened) {
        store.reset();
        store = Store::open(options());
      }
      int64_t live = 0, left = 0;
      for (const auto& [number, job] : world.jobs) {
        const bool gone = !store->progress(JobNumber(number));
        const bool needed =
            world.sessions.contains(job.session) && job.state != JobState::failed && job.has_prompt;
        live += !job.ended();
        if (!job.ended() || needed) {
          EXPECT_FALSE(gone) << "job " << number;
        }
        left += job.ended() && !needed && !gone;
      }
      EXPECT_LE(left, 6) << "all but what ended in the newest row of the log";
      EXPECT_EQ(store->counters().live_jobs, live);
      for (const auto& [number, session] : world.sessions) {
        EXPECT_EQ(store->transcript(SessionNumber(number), std::ssize(session.transcript)),
                  session.transcript);
      }
    }
    for (int commit = 0; commit < 50; ++commit) store->commit(world.make_commit());
  }
}

TEST_F(StoreRetireTest, RetentionWaitsForTheAgeThatWasAskedFor) {
  ReferenceWorld world(3);
  auto store = Store::open(options());
  for (int commit = 0; commit < 300; ++commit) store->commit(world.make_commit());
  int64_t taken = 0;
  for (int bite = 0; bite < 20; ++bite) taken += store->retire({}, 1'000'000 + bite * 2000).by_age;
  for (int bite = 0; bite < 20; ++bite) {
    taken += store->retire({.jobs_ms = 10'000'000}, 1'000'000 + bite * 2000).by_age;
  }
  EXPECT_EQ(taken, 0);
}

TEST_F(StoreRetireTest, ByItsSizeTheOldestGoFirst) {
  auto store = Store::open(options());
  const auto add = [&](uint64_t number, const std::string& session, uint64_t in) {
    auto spec = std::make_shared<JobSpec>();
    spec->job_id = "j" + std::to_string(number);
    StartedEntry started;
    started.job = JobNumber(number);
    started.attempt = Attempt(1);
    started.has_prompt = true;
    started.prompt.assign(400, 7);
    JobEndedEntry end;
    end.job = JobNumber(number);
    end.ended_at = 1'000'000;
    end.session_tokens = 400;
    std::vector<JournalEntry> all;
    if (in == number) all.push_back(SessionOpened{SessionNumber(in), session});
    all.push_back(
        JobAccepted{JobNumber(number), SessionNumber(in), std::move(spec), 5, 6, 1000, 0});
    all.push_back(JobDispatched{JobNumber(number), Attempt(1)});
    all.push_back(started);
    all.push_back(TokensAppended{{{JobNumber(number), 0, std::vector<Token>(500, 9), "", {}}}});
    end.session_tokens = 900;
    all.push_back(end);
    if (session.empty()) all.push_back(SessionClosed{SessionNumber(in)});
    store->commit(all);
  };
  for (uint64_t n = 1; n <= 300; ++n) add(n, "", n);
  const int64_t most = store->bytes_used() / 2;
  int64_t taken = 0;
  for (int bite = 0; bite < 50; ++bite) {
    taken += store->retire({.bytes = most}, 1'000'001 + bite).by_size;
  }
  EXPECT_GT(taken, 50);
  EXPECT_LT(taken, 250);
  EXPECT_LE(store->bytes_used(), most);
  EXPECT_FALSE(store->progress(JobNumber(1)));
  EXPECT_TRUE(store->progress(JobNumber(300)));

  add(301, "chat", 301);  // of an open session: its transcript stays, and nothing else is left
  add(302, "", 302);
  bool stuck = false;
  for (int bite = 0; bite < 50 && !stuck; ++bite) {
    stuck = store->retire({.bytes = 1}, 2'000'000 + bite * 2000).stuck;
  }
  EXPECT_TRUE(stuck);
  EXPECT_EQ(store->transcript(SessionNumber(301), 900).size(), 900u);
}

}  // namespace
}  // namespace limpet::broker
