// The real worker, its engine and its socket, on the embedded model, against a scripted broker.
#include "worker/worker.h"

#include <gmock/gmock.h>

#include <optional>

#include "tests/worker/running_worker.h"

namespace limpet::worker {
namespace {

using testing::HasSubstr;
using Ids = std::vector<Token>;

template <typename F>
Dispatch with(Dispatch d, F change) {
  auto spec = std::make_shared<JobSpec>(*d.spec);
  change(*spec);
  d.spec = std::move(spec);
  return d;
}

TEST(Worker, LaterTurnAnswersFromResidentKv) {
  ScriptedBroker broker;
  Running running(options_for(broker));
  const Register hello = broker.welcome();
  EXPECT_EQ(hello.worker, "w");
  EXPECT_EQ(hello.model, "limpet-tiny");
  EXPECT_EQ(hello.max_context, 4096);
  EXPECT_GT(hello.room.slots, 0);
  EXPECT_EQ(hello.room.total_kv_tokens, 256 * 16);

  broker.send(chat(1, 1, "My name is Ada."));
  const auto first = broker.follow(JobNumber{1});
  EXPECT_TRUE(first.end.ok);
  EXPECT_EQ(first.end.reason, FinishReason::stop);
  EXPECT_EQ(first.started.reason, Reason::new_session);
  const int64_t so_far = std::ssize(first.started.prompt) + std::ssize(first.ids);
  EXPECT_EQ(first.started.prefilled_tokens, std::ssize(first.started.prompt));

  broker.send(chat(2, 1, "What is my name?", so_far));
  const auto second = broker.follow(JobNumber{2});
  EXPECT_THAT(second.text, HasSubstr("Ada"));
  EXPECT_EQ(second.started.residency, Residency::resident);
  EXPECT_EQ(second.started.cached_tokens, so_far - 1);
  EXPECT_EQ(second.started.prefilled_tokens, std::ssize(second.started.prompt) + 1);
  broker.next<Heartbeat>();
  EXPECT_TRUE(running.worker.ready());
}

TEST(Worker, AnotherGoesOnInMidStreamWithTheSameTokensAndText) {
  ScriptedBroker broker;
  const Dispatch whole = with(chat(1, 1, "Tell me a story about a fox.", 0, 60), [](JobSpec& s) {
    s.sampling.temperature = 0.9f;
    s.sampling.top_p = 0.95f;
    s.sampling.logprobs = 2;
    s.ignore_eos = true;
  });
  ScriptedBroker::Reply undisturbed;
  {
    Running running(options_for(broker));
    broker.welcome();
    broker.send(whole);
    undisturbed = broker.follow(JobNumber{1});
  }
  ASSERT_EQ(undisturbed.ids.size(), 60u);
  ASSERT_EQ(undisturbed.logprobs.size(), 60u);
  EXPECT_EQ(undisturbed.logprobs[0].size(), 3u);
  EXPECT_EQ(undisturbed.logprobs[0][0].token, undisturbed.ids[0]);

  for (const size_t at : {1u, 23u, 59u, 60u}) {
    ScriptedBroker other;
    Running running(options_for(other));
    other.welcome();
    Dispatch d = whole;
    d.attempt = Attempt{2};
    d.home_reason = Reason::worker_lost;
    d.prompt_tokens = std::ssize(undisturbed.started.prompt);
    d.output_tokens = static_cast<int64_t>(at);
    d.has_transcript = true;
    d.transcript = undisturbed.started.prompt;
    d.transcript.insert(d.transcript.end(), undisturbed.ids.begin(),
                        undisturbed.ids.begin() + static_cast<ptrdiff_t>(at));
    other.send(d);
    if (at == 60) {  // lost between its last token and its end
      EXPECT_EQ(other.next<JobEnded>().reason, FinishReason::length);
      continue;
    }
    const auto rest = other.follow(JobNumber{1});
    EXPECT_EQ(rest.started.reason, Reason::worker_lost);
    EXPECT_EQ(rest.ids,
              Ids(undisturbed.ids.begin() + static_cast<ptrdiff_t>(at), undisturbed.ids.end()));
    EXPECT_TRUE(undisturbed.text.ends_with(rest.text)) << rest.text;
  }
}

TEST(Worker, ManySessionsInOneBatchSayWhatEachSaysAlone) {
  ScriptedBroker broker;
  const std::vector<std::string> lines = {"Hello!", "What is the capital of France?",
                                          "Count up from 3 to 9.", "Spell garden.",
                                          "What is 2 plus 3?"};
  std::vector<Ids> alone;
  {
    Running running(options_for(broker));
    broker.welcome();
    for (uint64_t j = 0; j < lines.size(); ++j) {
      broker.send(chat(j + 1, j + 1, lines[j]));
      alone.push_back(broker.follow(JobNumber{j + 1}).ids);
    }
  }
  ScriptedBroker other;
  Running running(options_for(other, /*pages=*/8));  // and short of pages
  other.welcome();
  for (uint64_t j = 0; j < lines.size(); ++j) other.send(chat(j + 1, j + 1, lines[j]));
  std::vector<Ids> together(lines.size());
  for (size_t ended = 0; ended < lines.size() && !HasFailure();) {
    const auto tokens = other.next<StepTokens>();
    for (const auto& row : tokens.rows) {
      Ids& ids = together.at(raw(row.job) - 1);
      EXPECT_EQ(row.first_index, std::ssize(ids));
      ids.insert(ids.end(), row.ids.begin(), row.ids.end());
    }
    ended = 0;
    for (size_t j = 0; j < lines.size(); ++j) ended += together[j].size() == alone[j].size();
  }
  EXPECT_EQ(together, alone);
}

TEST(Worker, StopStringsAndTokensEndTheOutput) {
  ScriptedBroker broker;
  Running running(options_for(broker));
  broker.welcome();
  broker.send(chat(1, 1, "Count up from 3 to 9."));
  const auto plain = broker.follow(JobNumber{1});
  ASSERT_THAT(plain.text, HasSubstr("6"));
  broker.send(with(chat(2, 2, "Count up from 3 to 9."), [](JobSpec& s) { s.stop = {"6"}; }));
  const auto stopped = broker.follow(JobNumber{2});
  EXPECT_EQ(stopped.end.reason, FinishReason::stop);
  EXPECT_EQ(stopped.text, plain.text.substr(0, plain.text.find('6')));
  broker.send(with(chat(3, 3, "Count up from 3 to 9."),
                   [&](JobSpec& s) { s.stop_tokens = {plain.ids[2]}; }));
  const auto token = broker.follow(JobNumber{3});
  EXPECT_EQ(token.end.reason, FinishReason::stop);
  EXPECT_LE(token.ids.size(), 3u);
}

TEST(Worker, PromptLongerThanTheModelAllowsFailsThatJobAlone) {
  ScriptedBroker broker;
  Running running(options_for(broker));
  broker.welcome();
  broker.send(with(chat(1, 1, ""), [](JobSpec& s) {
    s.kind = InputKind::tokens;
    s.tokens = Ids(5000, 9);
  }));
  const auto end = broker.next<JobEnded>();
  EXPECT_EQ(end.code, ErrorCode::too_long);
  EXPECT_THAT(end.message, HasSubstr("4096"));
  broker.send(chat(2, 2, "Hello!"));
  EXPECT_TRUE(broker.follow(JobNumber{2}).end.ok);
}

TEST(Worker, RestartedBrokerHearsOfItsSessionsAndRunningJob) {
  std::optional<ScriptedBroker> broker(std::in_place);
  const std::string endpoint = broker->endpoint();
  Running running(options_for(*broker));
  broker->welcome();
  broker->send(with(chat(1, 1, "Tell me a story about a fox.", 0, 400),
                    [](JobSpec& s) { s.ignore_eos = true; }));
  const auto begun = broker->follow(JobNumber{1}, 10);
  broker.reset();
  broker.emplace(endpoint);
  const Register hello = broker->next<Register>();
  EXPECT_EQ(hello.incarnation, 7u);
  ASSERT_EQ(hello.sessions.size(), 1u);
  ASSERT_EQ(hello.jobs.size(), 1u);
  EXPECT_GE(hello.jobs[0].next_index, 10);
  Registered answer;
  answer.incarnation = 7;
  answer.heartbeat_ms = 50;
  answer.resume = {{JobNumber{1}, Attempt{1}, 5}};
  broker->send(answer);
  const auto rest = broker->follow(JobNumber{1});
  EXPECT_EQ(rest.ids.size(), 395u);
  EXPECT_EQ(Ids(begun.ids.begin() + 5, begun.ids.end()),
            Ids(rest.ids.begin(), rest.ids.begin() + std::ssize(begun.ids) - 5));
}

TEST(Worker, HostileFramesChangeNothing) {
  ScriptedBroker broker;
  Running running(options_for(broker));
  broker.welcome();
  broker.send_raw("not a frame");
  broker.send_raw("");
  broker.send_raw(std::string(100000, '\xff'));
  broker.send(chat(1, 1, "Hello!"));
  EXPECT_TRUE(broker.follow(JobNumber{1}).end.ok);
}

TEST(Worker, LeavesWhenItIsStopped) {
  ScriptedBroker broker;
  const auto start = std::chrono::steady_clock::now();
  {
    Running running(options_for(broker));
    broker.welcome();
    broker.send(with(chat(1, 1, "Tell me a story about a fox.", 0, 4000),
                     [](JobSpec& s) { s.ignore_eos = true; }));
    broker.next<StepTokens>();
  }
  EXPECT_EQ(broker.next<Leaving>().incarnation, 7u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(Worker, DoesNotWaitForABrokerThatIsGoneWhenItIsStopped) {
  auto broker = std::make_unique<ScriptedBroker>();
  WorkerOptions options = options_for(*broker);
  options.grace = std::chrono::hours(1);
  Worker worker(options);
  std::atomic<int> stop{0};
  std::atomic<bool> gone{false};
  std::thread running([&] {
    worker.run(stop);
    gone = true;
  });
  broker->welcome();
  broker->send(with(chat(1, 1, "Tell me a story about a fox.", 0, 4000),
                    [](JobSpec& s) { s.ignore_eos = true; }));
  broker->next<StepTokens>();
  broker.reset();
  stop = 1;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!gone && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_TRUE(gone);
  stop = 2;
  running.join();
}

TEST(Worker, TellsItsFigures) {
  ScriptedBroker broker;
  Running running(options_for(broker));
  broker.welcome();
  broker.send(chat(1, 1, "Hello!"));
  const auto reply = broker.follow(JobNumber{1});
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const std::string decoded =
      "limpet_worker_tokens_total{phase=\"decode\"} " + std::to_string(reply.ids.size() - 1);
  while (running.worker.metrics().text().find(decoded) == std::string::npos &&
         std::chrono::steady_clock::now() < end) {
    broker.next<Heartbeat>();
  }
  const std::string text = running.worker.metrics().text();
  EXPECT_THAT(text, HasSubstr(decoded));
  EXPECT_THAT(text, HasSubstr("limpet_worker_sessions{tier=\"device\"} 1"));
  for (const char* name :
       {"step_seconds_bucket{phase=\"decode\"", "batch_rows_sum", "kv_pages{state=\"idle\"}",
        "kv_moved_bytes_total{direction=\"to_device\"}", "evictions_total{reason=\"evicted\"} 0",
        "reprefilled_tokens_total{reason=\"worker_lost\"} 0", "compile_cache_total{result=\"hit\"}",
        "compile_seconds_count", "device_idle_seconds_total", "preemptions_total 0"}) {
    EXPECT_THAT(text, HasSubstr("limpet_worker_" + std::string(name)));
  }
}

TEST(Worker, SaysWhatToDoWhenItCannotStart) {
  ScriptedBroker broker;
  WorkerOptions wrong = options_for(broker);
  wrong.engine.model_dir = "models/no-such-model";
  EXPECT_THROW(Worker{wrong}, std::runtime_error);
  wrong = options_for(broker);
  wrong.engine.device = "cuda:0";
  EXPECT_THROW(Worker{wrong}, std::runtime_error);
  wrong = options_for(broker);
  wrong.broker = "somewhere";
  EXPECT_THROW(Worker{wrong}, TransportError);
}

}  // namespace
}  // namespace limpet::worker
