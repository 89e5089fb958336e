#include "schema/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "tests/schema/random_messages.h"

namespace limpet {
namespace {

using testing::HasSubstr;

std::span<const std::byte> bytes(const std::string& s) { return std::as_bytes(std::span(s)); }

template <typename M>
class WireTest : public testing::Test {};
using Directions = testing::Types<ClientMessage, BrokerToClient, WorkerMessage, BrokerToWorker,
                                  GiverMessage, ReceiverMessage>;
TYPED_TEST_SUITE(WireTest, Directions);

TYPED_TEST(WireTest, EveryMessageSurvivesTheRoundTrip) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    test::Filler fill(seed);
    std::vector<TypeParam> in, out;
    test::fill_each(fill, in);
    test::fill_each(fill, in);
    const std::string frame = wire::encode(std::span<const TypeParam>(in));
    const auto error = wire::decode(bytes(frame), out);
    ASSERT_EQ(error.code, ErrorCode::none) << error.message << " at seed " << seed;
    ASSERT_EQ(test::show(in), test::show(out)) << "at seed " << seed;
  }
}

TYPED_TEST(WireTest, AFrameIsReadWhereverItsBytesLie) {
  test::Filler fill(5);
  std::vector<TypeParam> in;
  test::fill_each(fill, in);
  const std::string frame = wire::encode(std::span<const TypeParam>(in));
  for (size_t shift = 0; shift < 16; ++shift) {
    const std::string moved = std::string(shift, '?') + frame;
    std::vector<TypeParam> out;
    ASSERT_EQ(wire::decode(bytes(moved).subspan(shift), out).code, ErrorCode::none);
    ASSERT_EQ(test::show(in), test::show(out));
  }
}

// What was decoded takes memory in proportion to the frame.
template <typename M>
void expect_proportion(const std::vector<M>& out, size_t frame_bytes) {
  EXPECT_LE(out.size(), frame_bytes);
  EXPECT_LE(test::show(out).size(), 64 * frame_bytes + 1024);
}

TYPED_TEST(WireTest, DamagedFramesAreRefusedOrRead) {
  size_t refused = 0, read = 0;
  for (uint64_t seed = 0; seed < 6000; ++seed) {
    test::Filler fill(seed);
    std::vector<TypeParam> in, out;
    test::fill_each(fill, in);
    std::string frame = wire::encode(std::span<const TypeParam>(in));
    const uint64_t how = fill.below(4);
    if (how == 0) {
      frame.resize(fill.below(frame.size()));
    } else if (how == 1) {
      for (size_t n = 1 + fill.below(20); n > 0; --n) {
        frame[fill.below(frame.size())] ^= static_cast<char>(1 << fill.below(8));
      }
    } else if (how == 2) {  // words as an attacker would choose them
      const uint32_t words[] = {0, 1, 4, 0x7fffffff, 0xffffffff, 0x80000000, 64, 255};
      const size_t at = 8 + fill.below(frame.size() / 4 - 2) * 4;
      const uint32_t word = words[fill.below(8)];
      if (at + 4 <= frame.size()) std::memcpy(frame.data() + at, &word, 4);
    } else {  // one part over another
      const size_t n = std::min<size_t>(1 + fill.below(64), frame.size() - 8);
      std::memmove(frame.data() + 8 + fill.below(frame.size() - 8 - n + 1),
                   frame.data() + fill.below(frame.size() - n + 1), n);
    }
    const auto error = wire::decode(bytes(frame), out);
    if (error.code == ErrorCode::none) {
      ++read;
      expect_proportion(out, frame.size());
    } else {
      ++refused;
      EXPECT_TRUE(out.empty());
      EXPECT_FALSE(error.message.empty());
      EXPECT_EQ(error.message.find('\n'), std::string::npos);
    }
  }
  EXPECT_GT(refused, 1000u);
  EXPECT_GT(read, 500u);
}

TYPED_TEST(WireTest, NoiseIsRefused) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    test::Filler fill(seed);
    std::string noise(fill.below(300), '\0');
    for (char& c : noise) c = static_cast<char>(fill.below(256));
    std::vector<TypeParam> out;
    ASSERT_NE(wire::decode(bytes(noise), out).code, ErrorCode::none);
    ASSERT_TRUE(out.empty());
  }
}

TYPED_TEST(WireTest, AppendsAndLeavesTheRestAlone) {
  test::Filler fill(1);
  std::vector<TypeParam> in, out;
  test::fill_each(fill, in);
  const std::string frame = wire::encode(std::span<const TypeParam>(in));
  ASSERT_EQ(wire::decode(bytes(frame), out).code, ErrorCode::none);
  const size_t once = out.size();
  ASSERT_NE(wire::decode(bytes(frame.substr(0, frame.size() / 2)), out).code, ErrorCode::none);
  EXPECT_EQ(out.size(), once);
  ASSERT_EQ(wire::decode(bytes(frame), out).code, ErrorCode::none);
  EXPECT_EQ(out.size(), 2 * once);
}

TYPED_TEST(WireTest, AnEmptyEnvelopeIsFine) {
  std::vector<TypeParam> out;
  const std::string frame = wire::encode(std::span<const TypeParam>{});
  EXPECT_EQ(wire::decode(bytes(frame), out).code, ErrorCode::none);
  EXPECT_TRUE(out.empty());
}

template <typename M>
std::string one(M message) {
  return wire::encode(std::span<const M>(&message, 1));
}
template <typename M>
wire::DecodeError tried(const std::string& frame) {
  std::vector<M> out;
  return wire::decode(bytes(frame), out);
}

TEST(Wire, AFrameOfAnotherLinkIsNamed) {
  const auto error = tried<WorkerMessage>(one<ClientMessage>(List{}));
  EXPECT_EQ(error.code, ErrorCode::invalid);
  EXPECT_THAT(error.message, HasSubstr("port"));
}

TEST(Wire, BoundsOfAJobAreKept) {
  const auto code = [](auto change) {
    JobSpec spec;
    spec.job_id = "j";
    change(spec);
    return tried<ClientMessage>(
               one<ClientMessage>(Submit{std::make_shared<JobSpec>(spec), true, 0}))
        .code;
  };
  using S = JobSpec;
  const auto fits = ErrorCode::none, large = ErrorCode::too_large, invalid = ErrorCode::invalid;
  EXPECT_EQ(code([](S& s) { s.job_id.assign(Limits::kName, 'x'); }), fits);
  EXPECT_EQ(code([](S& s) { s.job_id.assign(Limits::kName + 1, 'x'); }), large);
  EXPECT_EQ(code([](S& s) { s.session.assign(Limits::kName + 1, 'x'); }), large);
  EXPECT_EQ(code([](S& s) { s.text.assign(Limits::kText, 'x'); }), fits);
  EXPECT_EQ(code([](S& s) { s.text.assign(Limits::kText + 1, 'x'); }), large);
  EXPECT_EQ(code([](S& s) { s.messages.resize(Limits::kMessages); }), fits);
  EXPECT_EQ(code([](S& s) { s.messages.resize(Limits::kMessages + 1); }), large);
  EXPECT_EQ(code([](S& s) { s.messages = {{std::string(300, 'r'), ""}}; }), large);
  EXPECT_EQ(code([](S& s) { s.messages = {{"u", std::string(Limits::kText + 1, 'r')}}; }), large);
  EXPECT_EQ(code([](S& s) { s.tokens.assign(Limits::kTokens, 7); }), fits);
  EXPECT_EQ(code([](S& s) { s.tokens.assign(Limits::kTokens + 1, 7); }), large);
  EXPECT_EQ(code([](S& s) { s.tokens = {-1}; }), invalid);
  EXPECT_EQ(code([](S& s) { s.stop.resize(Limits::kStops + 1, "a"); }), large);
  EXPECT_EQ(code([](S& s) { s.stop = {std::string(Limits::kStopBytes + 1, 'a')}; }), large);
  EXPECT_EQ(code([](S& s) { s.stop_tokens.resize(Limits::kStops + 1); }), large);
  EXPECT_EQ(code([](S& s) { s.kind = static_cast<InputKind>(3); }), invalid);
}

TEST(Wire, BoundsOfOtherMessagesAreKept) {
  const auto invalid = ErrorCode::invalid, large = ErrorCode::too_large;
  const std::string long_name(Limits::kName + 1, 'x');
  EXPECT_EQ(tried<ClientMessage>(one<ClientMessage>(Attach{long_name, 0})).code, large);
  EXPECT_EQ(tried<ClientMessage>(one<ClientMessage>(Attach{"j", -1})).code, invalid);
  EXPECT_EQ(tried<ClientMessage>(one<ClientMessage>(Attach{"j", int64_t{1} << 60})).code, invalid);
  EXPECT_EQ(tried<ClientMessage>(one<ClientMessage>(List{static_cast<Listing>(3), 1})).code,
            invalid);
  EXPECT_EQ(
      tried<BrokerToClient>(one<BrokerToClient>(Accepted{"j", static_cast<JobState>(7)})).code,
      invalid);
  EXPECT_EQ(
      tried<WorkerMessage>(one<WorkerMessage>(SessionDropped{{}, {}, static_cast<Reason>(8)})).code,
      invalid);
  EXPECT_EQ(tried<WorkerMessage>(one<WorkerMessage>(Heartbeat{1, 1, {-1, 0, 0}, {}})).code,
            invalid);
  EXPECT_EQ(tried<WorkerMessage>(one<WorkerMessage>(Heartbeat{
                                     1, 1, {}, {{JobNumber{1}, Attempt{1}, -5, true, false}}}))
                .code,
            invalid);
  StepTokens step;
  step.rows.push_back({JobNumber{1}, Attempt{1}, 0, {5, -6}, "", {}});
  EXPECT_EQ(tried<WorkerMessage>(one<WorkerMessage>(step)).code, invalid);
  Dispatch dispatch;
  dispatch.spec = std::make_shared<JobSpec>();
  dispatch.prompt_tokens = -1;
  EXPECT_EQ(tried<BrokerToWorker>(one<BrokerToWorker>(dispatch)).code, ErrorCode::none);
  dispatch.prompt_tokens = -2;
  EXPECT_EQ(tried<BrokerToWorker>(one<BrokerToWorker>(dispatch)).code, invalid);
  dispatch.prompt_tokens = 0;
  dispatch.transcript.resize(Limits::kTokens + 1);
  EXPECT_EQ(tried<BrokerToWorker>(one<BrokerToWorker>(dispatch)).code, large);
}

TEST(Wire, FramesOverTheLimitAreRefusedUnread) {
  std::string frame = one<ClientMessage>(List{});
  frame.resize(Limits::kClientFrame + 1);
  EXPECT_EQ(tried<ClientMessage>(frame).code, ErrorCode::too_large);
}

TEST(Wire, WhatIsTooMuchForOneFrameGoesInSeveral) {
  std::vector<BrokerToWorker> in;
  for (uint64_t i = 0; i < 20; ++i) {
    in.emplace_back(TranscriptReply{JobNumber{i}, {}, std::vector<Token>(Limits::kTokens, 3)});
  }
  EXPECT_THROW(wire::encode(std::span<const BrokerToWorker>(in)), std::length_error);
  const auto frames = wire::encode_frames(std::span<const BrokerToWorker>(in));
  EXPECT_GT(frames.size(), 1u);
  std::vector<BrokerToWorker> out;
  for (const std::string& frame : frames) {
    ASSERT_EQ(wire::decode(bytes(frame), out).code, ErrorCode::none);
  }
  ASSERT_EQ(out.size(), in.size());
  for (uint64_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(std::get<TranscriptReply>(out[i]).job, JobNumber{i});
  }
}

TEST(Wire, LogprobsOfAStepStayWithTheirRows) {
  StepTokens step;
  step.rows.push_back(
      {JobNumber{1}, Attempt{1}, 0, {10, 11}, "ab", {{{10, -.5f}}, {{11, -1}, {4, -2}}}});
  step.rows.push_back({JobNumber{2}, Attempt{1}, 9, {12}, "c", {}});
  step.rows.push_back({JobNumber{3}, Attempt{2}, 3, {13}, "", {{{13, -3}}}});
  std::vector<WorkerMessage> out;
  ASSERT_EQ(wire::decode(bytes(one<WorkerMessage>(step)), out).code, ErrorCode::none);
  EXPECT_EQ(test::show(out[0]), test::show(WorkerMessage(step)));
}

TEST(Wire, ASpecAloneSurvivesAndDamageIsSeen) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    test::Filler fill(seed);
    JobSpec in, out;
    fill(in);
    std::string stored = wire::encode_spec(in);
    ASSERT_EQ(wire::decode_spec(bytes(stored), out).code, ErrorCode::none);
    ASSERT_EQ(in, out);
    stored[fill.below(stored.size())] ^= 0x55;
    wire::decode_spec(bytes(stored), out);
    stored.resize(fill.below(stored.size() / 2));
    ASSERT_NE(wire::decode_spec(bytes(stored), out).code, ErrorCode::none);
  }
}

TEST(Wire, StoredLogprobsSurvive) {
  using List = std::vector<std::vector<TokenLogprob>>;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    test::Filler fill(seed);
    List in, out = {{}};
    fill(in);
    std::string stored = wire::encode_logprobs(in);
    ASSERT_EQ(stored.empty(), in.empty());
    ASSERT_EQ(wire::decode_logprobs(bytes(stored), out).code, ErrorCode::none);
    ASSERT_EQ(in, out);
    if (stored.empty()) continue;
    stored[fill.below(stored.size())] ^= static_cast<char>(1 + fill.below(255));
    wire::decode_logprobs(bytes(stored), out);
  }
}

TEST(Wire, TheHashCoversEveryFieldButTheId) {
  JobSpec base;
  base.job_id = "a";
  const uint64_t hash = wire::body_hash(base);
  const auto differs = [&](auto change) {
    JobSpec s = base;
    change(s);
    return wire::body_hash(s) != hash;
  };
  using S = JobSpec;
  EXPECT_FALSE(differs([](S& s) { s.job_id = "b"; }));
  EXPECT_FALSE(differs([](S& s) { s.sampling.min_p = -0.0f; }));
  EXPECT_TRUE(differs([](S& s) { s.session = "s"; }));
  EXPECT_TRUE(differs([](S& s) { s.kind = InputKind::text; }));
  EXPECT_TRUE(differs([](S& s) { s.messages = {{"user", "x"}}; }));
  EXPECT_TRUE(differs([](S& s) { s.text = "x"; }));
  EXPECT_TRUE(differs([](S& s) { s.tokens = {1}; }));
  EXPECT_TRUE(differs([](S& s) { s.sampling.temperature = 1; }));
  EXPECT_TRUE(differs([](S& s) { s.sampling.top_p = .5f; }));
  EXPECT_TRUE(differs([](S& s) { s.sampling.top_k = 1; }));
  EXPECT_TRUE(differs([](S& s) { s.sampling.min_p = .1f; }));
  EXPECT_TRUE(differs([](S& s) { s.sampling.repetition_penalty = 2; }));
  EXPECT_TRUE(differs([](S& s) { s.sampling.seed = 0; }));
  EXPECT_TRUE(differs([](S& s) { s.sampling.logprobs = 0; }));
  EXPECT_TRUE(differs([](S& s) { s.max_tokens = 1; }));
  EXPECT_TRUE(differs([](S& s) { s.stop = {"x"}; }));
  EXPECT_TRUE(differs([](S& s) { s.stop_tokens = {1}; }));
  EXPECT_TRUE(differs([](S& s) { s.ignore_eos = true; }));
  EXPECT_TRUE(differs([](S& s) { s.deadline_ms = 1; }));
  EXPECT_TRUE(differs([](S& s) { s.priority = 1; }));
  EXPECT_TRUE(differs([](S& s) { s.require_resident = true; }));
  EXPECT_TRUE(differs([](S& s) { s.rewind_to = 0; }));
  JobSpec split = base, joined = base;
  split.stop = {"a", "b"};
  joined.stop = {"ab"};
  EXPECT_NE(wire::body_hash(split), wire::body_hash(joined));
  // Stored jobs are recognised by it: it must never change.
  base.messages = {{"user", "My name is Ada."}};
  base.sampling.seed = 7;
  EXPECT_EQ(wire::body_hash(base), 5556586504318775712u);
}

TEST(Wire, ChecksSayWhatIsWrong) {
  const auto wrong = [](auto change) {
    JobSpec s;
    s.job_id = "j";
    s.messages = {{"user", "hello"}};
    change(s);
    return wire::check(s);
  };
  using S = JobSpec;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(wrong([](S&) {}), "");
  EXPECT_THAT(wrong([](S& s) { s.job_id = ""; }), HasSubstr("job_id"));
  EXPECT_THAT(wrong([](S& s) { s.job_id = "a\nb"; }), HasSubstr("job_id"));
  EXPECT_THAT(wrong([](S& s) { s.session.assign(257, 's'); }), HasSubstr("session"));
  EXPECT_THAT(wrong([](S& s) { s.messages.clear(); }), HasSubstr("messages"));
  EXPECT_THAT(wrong([](S& s) { s.messages[0].role = ""; }), HasSubstr("role"));
  EXPECT_THAT(wrong([](S& s) { s.kind = InputKind::text; }), HasSubstr("text"));
  EXPECT_THAT(wrong([](S& s) { s.kind = InputKind::tokens; }), HasSubstr("tokens"));
  EXPECT_THAT(wrong([](S& s) { s.max_tokens = 0; }), HasSubstr("max_tokens"));
  EXPECT_THAT(wrong([&](S& s) { s.sampling.temperature = nan; }), HasSubstr("temperature"));
  EXPECT_THAT(wrong([](S& s) { s.sampling.temperature = -1; }), HasSubstr("temperature"));
  EXPECT_THAT(wrong([](S& s) { s.sampling.top_p = 0; }), HasSubstr("top_p"));
  EXPECT_THAT(wrong([](S& s) { s.sampling.top_k = -1; }), HasSubstr("top_k"));
  EXPECT_THAT(wrong([](S& s) { s.sampling.min_p = 2; }), HasSubstr("min_p"));
  EXPECT_THAT(wrong([](S& s) { s.sampling.repetition_penalty = 0; }), HasSubstr("repetition"));
  EXPECT_THAT(wrong([](S& s) { s.sampling.logprobs = 21; }), HasSubstr("logprobs"));
  EXPECT_THAT(wrong([](S& s) { s.stop = {""}; }), HasSubstr("stop"));
  EXPECT_THAT(wrong([](S& s) { s.stop_tokens = {-1}; }), HasSubstr("stop_tokens"));
  EXPECT_THAT(wrong([](S& s) { s.deadline_ms = -1; }), HasSubstr("deadline_ms"));
  EXPECT_THAT(wrong([](S& s) { s.priority = 5000; }), HasSubstr("priority"));
  EXPECT_THAT(wrong([](S& s) { s.rewind_to = -2; }), HasSubstr("rewind_to"));
}

}  // namespace
}  // namespace limpet
