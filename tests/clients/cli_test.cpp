// The commands that follow jobs, against the broker double: what they print and how they exit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"
#include "tests/clients/fake_broker.h"

namespace limpet::client {
namespace {

using nlohmann::json;
using test::FakeBroker;
using testing::HasSubstr;
using testing::Not;
using namespace testing::internal;

class CliTest : public testing::Test {
 protected:
  CliTest() {
    forget_interrupts();
    submit_.broker.endpoint = attach_.broker.endpoint = list_.broker.endpoint = broker_.endpoint();
    submit_.spec.job_id = attach_.job_id = "j";
    submit_.text = "hello";
  }
  template <typename Command, typename Options>
  int run(Command command, const Options& options) {
    CaptureStderr();
    CaptureStdout();
    const int status = command(options);
    out_ = GetCapturedStdout();
    said_ = GetCapturedStderr();
    return status;
  }
  std::vector<json> events() {
    std::vector<json> all;
    std::istringstream in(out_);
    for (std::string line; std::getline(in, line);) all.push_back(json::parse(line));
    return all;
  }

  FakeBroker broker_;
  SubmitOptions submit_;
  AttachOptions attach_;
  ListOptions list_;
  std::string out_, said_;
};

TEST_F(CliTest, FailedJobsAreAViewOfTheirOwn) {
  list_.ask.what = Listing::jobs;
  list_.failed = true;
  list_.states = {"finished"};
  EXPECT_EQ(run(list, list_), 2);
  EXPECT_THAT(said_, HasSubstr("--failed"));
}

TEST_F(CliTest, SubmitStreamsTheReply) {
  broker_.answer_at_once(3);
  EXPECT_EQ(run(submit, submit_), 0) << said_;
  EXPECT_EQ(out_, FakeBroker::text(0, 3) + "end\n");
}

TEST_F(CliTest, JsonIsOneEventPerLine) {
  broker_.answer_at_once(3);
  broker_.intercept([](FakeBroker& b, const std::string& from, const ClientMessage& m) {
    if (std::holds_alternative<Submit>(m)) {
      b.reply(from, Started{"j", "one", Residency::reprefilled, Reason::new_session, 0, 7, 1});
    }
    return false;
  });
  submit_.json = true;
  EXPECT_EQ(run(submit, submit_), 0);
  std::string kinds, text;
  for (const json& e : events()) {
    kinds += e["event"].get<std::string>() + " ";
    text += e.value("text", "");
    if (e["event"] == "started") {
      EXPECT_EQ(e["residency"], "reprefilled");
      EXPECT_EQ(e["reason"], "new_session");
      EXPECT_EQ(e["prefilled_tokens"], 7);
    }
    if (e["event"] == "finished") {
      EXPECT_EQ(e["reason"], "stop");
      EXPECT_EQ(e["usage"]["output_tokens"], 3);
    }
  }
  EXPECT_EQ(kinds, "started accepted tokens tokens finished ");
  EXPECT_EQ(text, FakeBroker::text(0, 3) + "end");
}

TEST_F(CliTest, ResidencyGoesToStderr) {
  broker_.answer_at_once(1);
  broker_.intercept([](FakeBroker& b, const std::string& from, const ClientMessage& m) {
    if (std::holds_alternative<Submit>(m)) b.reply(from, Started{"j", "one", {}, {}, 35, 12, 1});
    return false;
  });
  EXPECT_EQ(run(submit, submit_), 0);
  EXPECT_THAT(said_, HasSubstr("resident on one: 35 tokens of KV at hand, 12 prefilled"));
}

TEST_F(CliTest, TheTextIsAUserMessageUnlessRaw) {
  broker_.answer_at_once(1);
  std::vector<JobSpec> seen;
  broker_.intercept([&](FakeBroker&, const std::string&, const ClientMessage& m) {
    if (const auto* s = std::get_if<Submit>(&m)) seen.push_back(*s->spec);
    return false;
  });
  submit_.system = "Be brief.";
  run(submit, submit_);
  submit_.raw = true;
  submit_.spec.job_id = "";
  run(submit, submit_);
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].messages,
            (std::vector<ChatMessage>{{"system", "Be brief."}, {"user", "hello"}}));
  EXPECT_EQ(seen[1].kind, InputKind::text);
  EXPECT_EQ(seen[1].text, "hello");
  EXPECT_THAT(seen[1].job_id, testing::StartsWith("job-"));
}

TEST_F(CliTest, FailuresAreOneLineAndStatusOne) {
  broker_.intercept([](FakeBroker& b, const std::string& from, const ClientMessage& m) {
    if (!std::holds_alternative<Submit>(m)) return false;
    b.reply(from, Accepted{"j"});
    b.reply(from, Failed{"j", ErrorCode::too_long, "5000 tokens,\nthe model takes 4096"});
    return true;
  });
  EXPECT_EQ(run(submit, submit_), 1);
  EXPECT_EQ(said_, "limpet: job j failed: too_long: 5000 tokens, the model takes 4096\n");
  EXPECT_EQ(out_, "");
}

TEST_F(CliTest, NoBroker) {
  broker_.stop();
  submit_.broker.connect_s = 0.2;
  EXPECT_EQ(run(submit, submit_), 1);
  EXPECT_THAT(said_, HasSubstr("no broker answers at " + broker_.endpoint()));
  EXPECT_EQ(std::count(said_.begin(), said_.end(), '\n'), 1);
  submit_.broker.endpoint = "nonsense";
  EXPECT_EQ(run(submit, submit_), 1);
  EXPECT_THAT(said_, HasSubstr("no endpoint"));
}

TEST_F(CliTest, BusyIsSaidOnceAndWaitedOutHoweverLong) {
  broker_.answer_at_once(2);
  for (const bool json : {false, true}) {
    submit_.json = json;
    submit_.spec.job_id = json ? "k" : "j";
    submit_.broker.give_up_s = 1;  // of silence
    const std::chrono::milliseconds busy(json ? 300 : 1500);
    const auto begun = std::chrono::steady_clock::now();
    broker_.intercept([&](FakeBroker& b, const std::string& from, const ClientMessage& m) {
      const auto* s = std::get_if<Submit>(&m);
      const auto waited = std::chrono::steady_clock::now() - begun;
      if (s == nullptr || waited > busy) return false;
      b.reply(from, Refused{s->spec->job_id, ErrorCode::busy, "full", 100});
      return true;
    });
    EXPECT_EQ(run(submit, submit_), 0) << said_;
    if (json) {
      EXPECT_EQ(events().at(0)["event"], "busy");
      EXPECT_EQ(events().at(0)["retry_after_ms"], 100);
      EXPECT_NE(events().at(1)["event"], "busy");
    } else {
      EXPECT_THAT(said_, HasSubstr("busy: full; trying again in 0.1 s"));
      EXPECT_EQ(std::count(said_.begin(), said_.end(), '\n'), 1) << said_;
    }
  }
}

TEST_F(CliTest, GiveUpBoundsTheWaitForAConnectionToo) {
  broker_.stop();
  submit_.broker.give_up_s = 0.2;
  submit_.broker.connect_s = 60;
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_EQ(run(submit, submit_), 1);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(30));
}

TEST_F(CliTest, AttachFromAnIndex) {
  broker_.answer_at_once(5);
  run(submit, submit_);
  attach_.from_index = 3;
  EXPECT_EQ(run(attach, attach_), 0);
  EXPECT_EQ(out_, FakeBroker::text(3, 5) + "end\n");
  attach_.job_id = "unknown";
  EXPECT_EQ(run(attach, attach_), 1);
  EXPECT_THAT(said_, HasSubstr("not_found"));
}

TEST_F(CliTest, CancelAndACancelTooLate) {
  std::thread other([&] {
    while (!broker_.followed("j")) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    AttachOptions o = attach_;
    cancel(o);
  });
  EXPECT_EQ(run(submit, submit_), 1);
  other.join();
  EXPECT_THAT(said_, HasSubstr("cancelled"));
  EXPECT_TRUE(broker_.cancelled("j"));
  broker_.answer_at_once(2);
  submit_.spec.job_id = attach_.job_id = "done";
  run(submit, submit_);
  EXPECT_EQ(run(cancel, attach_), 1);
  EXPECT_THAT(said_, HasSubstr("had ended already"));
}

// Sends signals to this process when it is time for them.
class Signals {
 public:
  explicit Signals(std::function<void()> script) : thread_(std::move(script)) {}
  ~Signals() { thread_.join(); }
  static void wait_for(const std::function<bool()>& condition) {
    while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }

 private:
  std::thread thread_;
};

TEST_F(CliTest, AnInterruptBeforeTheAcknowledgementClaimsNoJob) {
  const BrokerToClient answers[] = {Listed{}, Refused{"j", ErrorCode::busy, "full", 60000}};
  for (const BrokerToClient& answer : answers) {
    std::atomic<int> asked{0};
    broker_.intercept([&](FakeBroker& b, const std::string& from, const ClientMessage& m) {
      if (std::holds_alternative<Submit>(m)) {
        b.reply(from, answer);
        ++asked;
      }
      return true;
    });
    const Signals signals([&] {
      Signals::wait_for([&] { return asked > 0; });
      kill(getpid(), SIGINT);
    });
    EXPECT_EQ(run(submit, submit_), 1);
    EXPECT_THAT(said_, HasSubstr("not acknowledged yet: run again with --job j"));
    EXPECT_THAT(said_, Not(HasSubstr("goes on")));
  }
}

TEST_F(CliTest, AnInterruptAfterTheAcknowledgementLeavesTheJob) {
  const Signals signals([&] {
    Signals::wait_for([&] { return broker_.followed("j"); });
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    kill(getpid(), SIGINT);
  });
  EXPECT_EQ(run(submit, submit_), 1);
  EXPECT_THAT(said_, HasSubstr("the job goes on: limpet attach j"));
}

TEST_F(CliTest, ASilentPeerIsGivenUpInOneLine) {
  broker_.intercept([](FakeBroker&, const std::string&, const ClientMessage&) { return true; });
  submit_.broker.give_up_s = 1;
  EXPECT_EQ(run(submit, submit_), 1);
  EXPECT_THAT(said_, HasSubstr("no answer from " + broker_.endpoint()));
  EXPECT_THAT(said_, HasSubstr("run again with --job j"));
  EXPECT_EQ(std::count(said_.begin(), said_.end(), '\n'), 1) << said_;
}

// Standard input that holds this.
class Input {
 public:
  explicit Input(const std::string& text) : text_(text), before_(std::cin.rdbuf(text_.rdbuf())) {}
  ~Input() {
    std::cin.rdbuf(before_);
    std::cin.clear();
  }

 private:
  std::istringstream text_;
  std::streambuf* before_;
};

TEST_F(CliTest, ChatCanBeLeftWhileTheBrokerHangs) {
  for (const std::vector<int>& numbers : {std::vector{SIGINT, SIGINT}, std::vector{SIGTERM}}) {
    std::atomic<int> asked{0};
    broker_.intercept([&](FakeBroker&, const std::string&, const ClientMessage& m) {
      asked += std::holds_alternative<Submit>(m) || std::holds_alternative<Cancel>(m) ? 1 : 0;
      return true;
    });
    const Input input("hello\nagain\n");
    const Signals signals([&] {
      int sent = 0;
      for (const int number : numbers) {
        Signals::wait_for([&] { return asked > sent; });
        ++sent;
        kill(getpid(), number);
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
      }
    });
    EXPECT_EQ(run(chat, submit_), 1);
    EXPECT_EQ(std::count(said_.begin(), said_.end(), '\n'), 1) << said_;
    EXPECT_THAT(said_, HasSubstr("stopped"));
  }
}

TEST_F(CliTest, WrongArgumentsAreToldWithoutABroker) {
  broker_.stop();
  const auto wrong = [&](const std::function<void(SubmitOptions&)>& change, const char* what) {
    SubmitOptions o = submit_;
    change(o);
    for (auto* command : {submit, chat}) {
      EXPECT_EQ(run(command, o), 2) << what;
      EXPECT_THAT(said_, HasSubstr(what));
      EXPECT_EQ(std::count(said_.begin(), said_.end(), '\n'), 1) << said_;
    }
  };
  wrong([](SubmitOptions& o) { o.spec.max_tokens = 0; }, "max_tokens");
  wrong([](SubmitOptions& o) { o.spec.sampling.temperature = std::nanf(""); }, "temperature");
  wrong([](SubmitOptions& o) { o.spec.sampling.top_p = 2; }, "top_p");
  wrong([](SubmitOptions& o) { o.spec.session = std::string(300, 'x'); }, "session");
  attach_.from_index = -1;
  EXPECT_EQ(run(attach, attach_), 2);
  attach_.job_id = "";
  EXPECT_EQ(run(cancel, attach_), 2);
  for (const char* since : {"0s", "0", "0.0001s", "nan", "-1s", "5x"}) {
    list_.since = since;
    EXPECT_EQ(run(list, list_), 2) << since;
    EXPECT_THAT(said_, HasSubstr("--since is a span of time"));
  }
}

TEST_F(CliTest, Listings) {
  broker_.answer_at_once(2);
  run(submit, submit_);
  EXPECT_EQ(run(list, list_), 0);
  EXPECT_THAT(out_, HasSubstr("JOB"));
  EXPECT_THAT(out_, HasSubstr("\nj "));
  list_.json = true;
  EXPECT_EQ(run(list, list_), 0);
  EXPECT_EQ(events().at(0)["job"], "j");
}

}  // namespace
}  // namespace limpet::client
