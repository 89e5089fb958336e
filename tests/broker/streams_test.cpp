#include "broker/streams.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "schema/wire.h"
#include "tests/broker/scratch_folder.h"

namespace limpet::broker {
namespace {

constexpr ClientId kAnn{1}, kBob{2};

// One job of one session, fed to the store and to the streams as the broker's loop does.
class StreamsTest : public testing::Test {
 protected:
  void SetUp() override {
    store_ = Store::open({.folder = folder_.path(), .fold_tokens = 8, .sweep_bytes = 2000});
    const auto send = [this](ClientId client, const std::string& frame) {
      if (delivery_[client] == Delivery::sent) {
        std::vector<BrokerToClient> messages;
        EXPECT_EQ(wire::decode(std::as_bytes(std::span(frame)), messages).code, ErrorCode::none);
        for (auto& m : messages) got_[client].push_back(std::move(m));
      }
      return delivery_[client];
    };
    streams_ = std::make_unique<Streams>(*store_, send);
    auto spec = std::make_shared<JobSpec>();
    spec->job_id = "j";
    spec->session = "s";
    spec->text = "hello";
    spec->kind = InputKind::text;
    spec_ = spec;
    commit({SessionOpened{SessionNumber(1), "s"},
            JobAccepted{kJob, SessionNumber(1), spec_, 1, 2, 3, 0},
            JobDispatched{kJob, Attempt(1)}});
  }
  void commit(std::vector<JournalEntry> entries) { store_->commit(entries); }

  void start(uint32_t attempt = 1) {
    StartedEntry e;
    e.job = kJob;
    e.attempt = Attempt(attempt);
    e.worker = "w";
    e.has_prompt = attempt == 1;
    if (e.has_prompt) e.prompt = {1, 2};
    commit({e});
    streams_->event({kJob, spec_, e});
  }
  void token(int n = 1) {
    for (int i = 0; i < n; ++i) {
      OutputRow row{kJob, made_, {static_cast<Token>(100 + made_)},
                    "<" + std::to_string(made_) + ">", {}};
      ++made_;
      commit({TokensAppended{{row}}});
      streams_->event({kJob, spec_, row});
    }
  }
  void end(JobState state = JobState::finished) {
    JobEndedEntry e;
    e.job = kJob;
    e.state = state;
    e.code = state == JobState::failed ? ErrorCode::worker_error : ErrorCode::none;
    e.tail_text = "tail";
    e.session_tokens = 2 + made_;
    commit({e});
    streams_->event({kJob, spec_, e});
  }
  void open(ClientId client, int64_t from = 0, bool tokens = true) {
    streams_->open({client, kJob, "j", from, tokens});
  }

  // "S1 0-9 F": the attempt of each Started, the indices of tokens, the outcome.
  std::string told(ClientId client) {
    std::string out;
    int64_t next = -1;
    for (const auto& m : got_[client]) {
      if (const auto* s = std::get_if<Started>(&m)) out += "S" + std::to_string(s->attempt) + " ";
      if (std::holds_alternative<Finished>(m)) out += "F ";
      if (std::holds_alternative<Failed>(m)) out += "X ";
      if (const auto* t = std::get_if<Tokens>(&m)) {
        std::string want;
        for (size_t i = 0; i < t->ids.size(); ++i) {
          const int64_t index = t->first_index + static_cast<int64_t>(i);
          EXPECT_EQ(t->ids[i], 100 + index);
          want += "<" + std::to_string(index) + ">";
        }
        EXPECT_EQ(t->text, want);
        if (next >= 0) {
          EXPECT_EQ(t->first_index, next) << "a gap or a repetition";
        }
        if (next < 0) out += std::to_string(t->first_index) + "..";
        next = t->first_index + static_cast<int64_t>(t->ids.size());
      }
    }
    return out + (next >= 0 ? std::to_string(next) : "");
  }

  static constexpr JobNumber kJob{7};
  ScratchFolder folder_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Streams> streams_;
  std::shared_ptr<const JobSpec> spec_;
  std::map<ClientId, Delivery> delivery_;
  std::map<ClientId, std::vector<BrokerToClient>> got_;
  int64_t made_ = 0;
};

TEST_F(StreamsTest, PassesOnWhatHappens) {
  open(kAnn);
  streams_->flush();
  start();
  token(3);
  end();
  streams_->flush();
  EXPECT_EQ(told(kAnn), "S1 0..F 3");
  EXPECT_EQ(streams_->streams(), 0u);
}

TEST_F(StreamsTest, StartsFromTheAskedIndex) {
  start();
  token(40);  // most of it is in the tables, the rest in the log
  open(kAnn, 13);
  open(kBob, 0);
  streams_->flush();
  token(2);
  streams_->flush();
  EXPECT_EQ(told(kAnn), "S1 13..42");
  EXPECT_EQ(told(kBob), "S1 0..42");
}

TEST_F(StreamsTest, AnIndexAheadOfTheJobWaitsForIt) {
  start();
  token(2);
  open(kAnn, 5);
  streams_->flush();
  token(5);
  streams_->flush();
  EXPECT_EQ(told(kAnn), "S1 5..7");
}

TEST_F(StreamsTest, AnEndedJobIsToldWhole) {
  start();
  token(20);
  end();
  open(kAnn, 4);
  streams_->flush();
  EXPECT_EQ(told(kAnn), "S1 4..F 20");
  EXPECT_EQ(streams_->streams(), 0u);
}

TEST_F(StreamsTest, EventsOfTheSameTurnAreNotRepeated) {
  open(kAnn);  // the loop gives a turn's sends in order, after all of it is durable
  start();
  token(3);
  open(kBob);
  token(3);
  streams_->flush();
  EXPECT_EQ(told(kAnn), "S1 0..6");
  EXPECT_EQ(told(kBob), "S1 0..6");
}

TEST_F(StreamsTest, OnlyTheOutcomeWhenAskedSo) {
  open(kAnn, 0, false);
  start();
  token(3);
  streams_->flush();
  token(3);
  end(JobState::failed);
  streams_->flush();
  EXPECT_EQ(told(kAnn), "X ");
}

TEST_F(StreamsTest, ASlowClientMissesNothingAndStallsNobody) {
  open(kAnn);
  open(kBob);
  start();
  streams_->flush();
  delivery_[kAnn] = Delivery::full;
  for (int i = 0; i < 300; ++i) {
    token();
    streams_->flush();
  }
  EXPECT_EQ(told(kBob), "S1 0..300");
  EXPECT_EQ(told(kAnn), "S1 ");
  EXPECT_TRUE(streams_->behind());
  delivery_[kAnn] = Delivery::sent;
  for (int i = 0; i < 50 && streams_->behind(); ++i) streams_->flush();
  token();
  end();
  streams_->flush();
  EXPECT_EQ(told(kAnn), "S1 0..F 301");
  EXPECT_FALSE(streams_->behind());
}

TEST_F(StreamsTest, ManyThatAreAskedForAtOnceAreLookedUpInBites) {
  constexpr int kMany = 5000;
  for (int i = 0; i < kMany; ++i) streams_->open({kAnn, kJob, "j" + std::to_string(i), 0, true});
  streams_->flush();
  EXPECT_TRUE(streams_->behind()) << "the broker's other work waited for all of them";
  for (int i = 0; i < 10 && streams_->behind(); ++i) streams_->flush();
  EXPECT_FALSE(streams_->behind());
  start();
  end();
  streams_->flush();
  const auto finished = [](const auto& m) { return std::holds_alternative<Finished>(m); };
  EXPECT_EQ(std::ranges::count_if(got_[kAnn], finished), kMany);
}

TEST_F(StreamsTest, AClientThatHasGoneIsForgotten) {
  open(kAnn);
  start();
  streams_->flush();
  delivery_[kAnn] = Delivery::gone;
  token();
  streams_->flush();
  EXPECT_EQ(streams_->streams(), 0u);
  EXPECT_FALSE(streams_->behind());
}

TEST_F(StreamsTest, DetachEndsTheStreamAndNotTheJob) {
  open(kAnn);
  start();
  token();
  streams_->flush();
  streams_->close({kAnn, "j"});
  token(4);
  streams_->flush();
  EXPECT_EQ(told(kAnn), "S1 0..1");
  open(kAnn, 1);
  streams_->flush();
  EXPECT_EQ(store_->progress(kJob)->output_tokens, 5);
}

TEST_F(StreamsTest, ARowLargerThanAFrameIsToldInParts) {
  open(kAnn);
  start();
  streams_->flush();
  OutputRow row{kJob, 0, {}, "all of it", {}};
  constexpr int kMany = 120'000;  // with 20 alternatives each: 19 MB
  for (Token i = 0; i < kMany; ++i) {
    row.ids.push_back(100 + i);
    row.logprobs.emplace_back(Limits::kLogprobs, TokenLogprob{i, -1.0f});
  }
  streams_->event({kJob, spec_, row});
  streams_->flush();
  int64_t next = 0;
  std::string text;
  for (const BrokerToClient& m : got_[kAnn]) {
    const auto* t = std::get_if<Tokens>(&m);
    if (t == nullptr) continue;
    EXPECT_EQ(t->first_index, next);
    EXPECT_EQ(t->logprobs.size(), t->ids.size());
    next += std::ssize(t->ids);
    text += t->text;
  }
  EXPECT_EQ(next, kMany);
  EXPECT_EQ(text, "all of it");
}

TEST_F(StreamsTest, WhatNoFrameCanHoldCostsOnlyItself) {
  Listed huge;
  huge.jobs.resize(70'000);
  for (JobInfo& j : huge.jobs) j.job_id = j.session = std::string(Limits::kName, 'x');
  streams_->answer(kAnn, Accepted{"before", JobState::queued, true});
  streams_->answer(kAnn, std::move(huge));
  streams_->answer(kAnn, Accepted{"after", JobState::queued, true});
  streams_->flush();
  ASSERT_EQ(got_[kAnn].size(), 3u);
  EXPECT_EQ(std::get<Refused>(got_[kAnn][1]).code, ErrorCode::too_large);
  EXPECT_EQ(std::get<Accepted>(got_[kAnn][2]).job_id, "after");
}

TEST_F(StreamsTest, AClientThatAsksAndDoesNotReadIsDropped) {
  delivery_[kAnn] = Delivery::full;
  open(kAnn);
  open(kBob);
  streams_->answer(kAnn, Accepted{"a", JobState::queued, true});
  streams_->flush();
  EXPECT_TRUE(streams_->unread(kAnn));
  EXPECT_FALSE(streams_->unread(kBob));
  Listed large;
  large.jobs.resize(4000);
  for (JobInfo& j : large.jobs) j.job_id = j.session = std::string(Limits::kName, 'x');
  for (int i = 0; i < 4; ++i) {
    streams_->answer(kAnn, large);
    streams_->flush();
  }
  EXPECT_EQ(streams_->streams(), 1u) << "Bob's alone";
}

TEST_F(StreamsTest, AnotherAttemptIsToldOnce) {
  open(kAnn);
  start(1);
  token(2);
  streams_->flush();
  start(2);
  token(2);
  streams_->flush();
  EXPECT_EQ(told(kAnn), "S1 0..S2 4");
}

}  // namespace
}  // namespace limpet::broker
