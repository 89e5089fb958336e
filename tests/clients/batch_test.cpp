#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "clients/cli/batch_lines.h"
#include "clients/cli/commands.h"
#include "clients/cli/line_ids.h"
#include "clients/cli/line_reader.h"
#include "clients/cli/progress.h"
#include "tests/clients/fake_broker.h"
#include "tests/clients/temporary_folder.h"

namespace limpet::client {
namespace {

using nlohmann::json;
using test::FakeBroker;
using testing::HasSubstr;
using testing::Not;
using testing::internal::CaptureStderr;
using testing::internal::GetCapturedStderr;

std::string request(const std::string& id, const std::string& text = "hello") {
  return json{{"custom_id", id},
              {"method", "POST"},
              {"url", "/v1/chat/completions"},
              {"body", {{"messages", {{{"role", "user"}, {"content", text}}}}, {"max_tokens", 9}}}}
             .dump() +
         "\n";
}

BatchLine parsed(const std::string& line) {
  BatchLine out;
  EXPECT_TRUE(parse_batch_line(line, 256, out)) << out.error;
  return out;
}

TEST(BatchLines, ARequestBecomesAJob) {
  const BatchLine line = parsed(
      R"({"custom_id": "c1", "body": {"model": "m", "messages": [
          {"role": "system", "content": "Be brief."},
          {"role": "user", "content": [{"type": "text", "text": "Hel"},
                                       {"type": "text", "text": "lo"}]}],
          "max_completion_tokens": 7, "temperature": 0, "top_p": 0.5, "seed": 3, "stop": "X",
          "user": "u"}})");
  EXPECT_EQ(line.error, "");
  EXPECT_EQ(line.custom_id, "c1");
  EXPECT_EQ(line.model, "m");
  EXPECT_EQ(line.spec.messages,
            (std::vector<ChatMessage>{{"system", "Be brief."}, {"user", "Hello"}}));
  EXPECT_EQ(line.spec.max_tokens, 7);
  EXPECT_EQ(line.spec.sampling.temperature, 0);
  EXPECT_EQ(line.spec.sampling.top_p, 0.5f);
  EXPECT_EQ(line.spec.sampling.seed, 3u);
  EXPECT_EQ(line.spec.stop, std::vector<std::string>{"X"});
}

TEST(BatchLines, TheJobsIdFollowsFromIdAndBodyAlone) {
  EXPECT_EQ(parsed(request("a")).spec.job_id, parsed(request("a")).spec.job_id);
  EXPECT_NE(parsed(request("a")).spec.job_id, parsed(request("b")).spec.job_id);
  EXPECT_NE(parsed(request("a")).spec.job_id, parsed(request("a", "other")).spec.job_id);
}

TEST(BatchLines, WhatIsWrongIsSaid) {
  const auto error = [](const std::string& body) {
    return parsed(R"({"custom_id": "c", "body": )" + body + "}").error;
  };
  EXPECT_THAT(error("3"), HasSubstr("body"));
  EXPECT_THAT(error("{}"), HasSubstr("messages"));
  EXPECT_THAT(error(R"({"prompt": 5})"), HasSubstr("prompt"));
  EXPECT_THAT(error(R"({"prompt": ["a", "b"]})"), HasSubstr("prompt"));
  EXPECT_THAT(error(R"({"prompt": [1, -2]})"), HasSubstr("prompt"));
  EXPECT_THAT(error(R"({"prompt": "x", "echo": true})"), HasSubstr("echo"));
  EXPECT_THAT(error(R"({"messages": []})"), HasSubstr("messages"));
  EXPECT_THAT(error(R"({"messages": [4]})"), HasSubstr("message"));
  EXPECT_THAT(error(R"({"messages": [{"content": "x"}]})"), HasSubstr("role"));
  const std::string fine = R"("messages": [{"role": "user", "content": "x"}])";
  EXPECT_EQ(error("{" + fine + "}"), "");
  EXPECT_THAT(error("{" + fine + R"(, "max_tokens": "9"})"), HasSubstr("max_tokens"));
  EXPECT_THAT(error("{" + fine + R"(, "max_tokens": 0})"), HasSubstr("max_tokens"));
  EXPECT_THAT(error("{" + fine + R"(, "max_tokens": 9999999999})"), HasSubstr("max_tokens"));
  EXPECT_THAT(error("{" + fine + R"(, "temperature": -1})"), HasSubstr("temperature"));
  EXPECT_THAT(error("{" + fine + R"(, "temperature": 1e39})"), HasSubstr("temperature"));
  EXPECT_THAT(error("{" + fine + R"(, "top_p": -0.5})"), HasSubstr("top_p"));
  EXPECT_THAT(error("{" + fine + R"(, "session": 5})"), HasSubstr("session"));
  EXPECT_THAT(error("{" + fine + R"(, "tools": [{"type": "function"}]})"), HasSubstr("tools"));
  EXPECT_THAT(error("{" + fine + R"(, "response_format": {"type": "json_object"}})"),
              HasSubstr("response_format"));
  EXPECT_EQ(error("{" + fine + R"(, "tools": [], "logprobs": false, "presence_penalty": 0,
                  "response_format": {"type": "text"}, "stream": true})"), "");
  EXPECT_THAT(error("{" + fine + R"(, "n": 2})"), HasSubstr("n must"));
  EXPECT_THAT(error("{" + fine + R"(, "stop": [1]})"), HasSubstr("stop"));
  EXPECT_THAT(parsed(R"({"custom_id": "c", "url": "/v1/embeddings", "body": {}})").error,
              HasSubstr("url"));
  BatchLine out;
  for (const char* line :
       {"", "nonsense", "[]", "{}", R"({"custom_id": ""})",
        R"({"custom_id": 5, "body": {}})",
        "{\"custom_id\": \"\xff\", \"body\": {}}",
        R"({"custom_id": "c", "body": {"x": NaN}})"}) {
    EXPECT_FALSE(parse_batch_line(line, 256, out)) << line;
    EXPECT_FALSE(out.error.empty());
  }
}

TEST(BatchLines, CompletionsTakeTextOrTokens) {
  const BatchLine text = parsed(
      R"({"custom_id": "c", "url": "/v1/completions", "body": {"prompt": "Once"}})");
  EXPECT_EQ(text.error, "");
  EXPECT_FALSE(text.chat);
  EXPECT_EQ(text.spec.kind, InputKind::text);
  EXPECT_EQ(text.spec.text, "Once");
  for (const char* prompt : {"[3, 1, 4]", "[[3, 1, 4]]"}) {
    const BatchLine ids =
        parsed(R"({"custom_id": "c", "body": {"prompt": )" + std::string(prompt) + "}}");
    EXPECT_EQ(ids.error, "");
    EXPECT_EQ(ids.spec.tokens, (std::vector<Token>{3, 1, 4}));
  }
  BatchAnswer answer{.custom_id = "c", .job_id = "j", .model = "m", .text = "upon", .chat = false};
  const json out = json::parse(batch_response(answer, Finished{}));
  EXPECT_EQ(out["response"]["body"]["object"], "text_completion");
  EXPECT_EQ(out["response"]["body"]["choices"][0]["text"], "upon");
}

TEST(BatchLines, ASessionMayStandBesideTheBodyOrInIt) {
  const std::string body = R"({"messages": [{"role": "user", "content": "x"}]})";
  const std::string inside =
      R"({"messages": [{"role": "user", "content": "x"}], "session": "s"})";
  const auto a = parsed(R"({"custom_id": "c", "session": "s", "body": )" + body + "}");
  const auto b = parsed(R"({"custom_id": "c", "body": )" + inside + "}");
  EXPECT_EQ(a.spec, b.spec);
  EXPECT_EQ(a.spec.session, "s");
  EXPECT_NE(a.spec.job_id, parsed(R"({"custom_id": "c", "body": )" + body + "}").spec.job_id);
}

TEST(BatchLines, DeepNestingIsNoRequest) {
  BatchLine out;
  EXPECT_FALSE(parse_batch_line(std::string(1 << 20, '['), 256, out));
  EXPECT_FALSE(parse_batch_line(R"({"custom_id": "c", "body": )" + std::string(100, '[') +
                                    std::string(100, ']') + "}", 256, out));
}

TEST(LineIds, RememberFlagsThroughGrowth) {
  test::TemporaryFolder folder;
  LineIds ids(folder.path().string());
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));  // its file has no name
  for (int i = 0; i < 60000; ++i) {
    ASSERT_EQ(ids.mark("id " + std::to_string(i), i % 2 == 0 ? LineIds::kSeen
                                                             : LineIds::kAnswered), 0);
  }
  EXPECT_EQ(ids.size(), 60000u);
  for (int i = 0; i < 60000; ++i) {
    ASSERT_EQ(ids.mark("id " + std::to_string(i), LineIds::kAnswered),
              i % 2 == 0 ? LineIds::kSeen : LineIds::kAnswered);
  }
  EXPECT_EQ(ids.mark("id 0", 0), LineIds::kSeen | LineIds::kAnswered);
  EXPECT_THROW(LineIds("/proc/none"), std::runtime_error);
}

TEST(LineReader, GivesLinesOfAnyLengthWithTheirNumbers) {
  test::TemporaryFolder folder;
  const std::string longer(5000, 'x'), longest(9001, 'y');
  const std::string text = "a\n\n \r\n" + longer + "\r\n" + longest + "\nlast";
  LineReader in(folder.write("in", text), 9000);
  std::string line;
  ASSERT_TRUE(in.next(line));
  EXPECT_EQ(line, "a");
  EXPECT_EQ(in.number(), 1u);
  ASSERT_TRUE(in.next(line));
  EXPECT_EQ(line, longer + "\r");
  EXPECT_EQ(in.number(), 4u);
  EXPECT_FALSE(in.too_long());
  ASSERT_TRUE(in.next(line));
  EXPECT_TRUE(in.too_long());
  EXPECT_EQ(line.size(), 9000u);
  ASSERT_TRUE(in.next(line));
  EXPECT_EQ(line, "last");
  EXPECT_FALSE(in.whole());
  EXPECT_FALSE(in.too_long());
  EXPECT_EQ(in.position(), text.size());
  EXPECT_EQ(in.size(), text.size());
  EXPECT_FALSE(in.next(line));
  EXPECT_FALSE(LineReader(folder.path().string(), 10).is_open());
}

TEST(ProgressLine, TellsShareRateAndTimeLeft) {
  ProgressFigures f{.answered = 300, .failed = 2, .now_answered = 100, .position = 400,
                    .size = 1000, .now_position = 100, .seconds = 20};
  EXPECT_EQ(progress_line(f),
            "[############..................]  40%  300 done  5.0/s  2 failed  0:02:00 left");
  f.position = f.size;
  EXPECT_THAT(progress_line(f), HasSubstr("100%"));
  EXPECT_THAT(progress_line(f), Not(HasSubstr("left")));
  EXPECT_EQ(progress_line({}), "0 done  0.0/s  0 failed");
}

class BatchTest : public testing::Test {
 protected:
  int run(int concurrency = 4) {
    BatchOptions o;
    o.broker.endpoint = broker_.endpoint();
    o.in = folder_.file("in");
    o.out = folder_.file("out");
    o.concurrency = concurrency;
    CaptureStderr();
    const int status = batch(o);
    said_ = GetCapturedStderr();
    return status;
  }
  std::map<std::string, json> answers() {
    std::map<std::string, json> out;
    std::istringstream in(folder_.read("out"));
    for (std::string line; std::getline(in, line);) {
      const json answer = json::parse(line);
      EXPECT_TRUE(out.emplace(answer["custom_id"], answer).second) << "answered twice: " << line;
    }
    return out;
  }

  FakeBroker broker_;
  test::TemporaryFolder folder_;
  std::string said_;
};

TEST_F(BatchTest, EveryRequestIsAnsweredOnce) {
  broker_.answer_at_once(3);
  std::string in;
  for (int i = 0; i < 50; ++i) in += request("c" + std::to_string(i)) + (i % 7 == 0 ? "\n" : "");
  folder_.write("in", in);
  EXPECT_EQ(run(), 0) << said_;
  EXPECT_EQ(said_, "");
  const auto all = answers();
  ASSERT_EQ(all.size(), 50u);
  const json& body = all.at("c17")["response"]["body"];
  EXPECT_EQ(all.at("c17")["response"]["status_code"], 200);
  EXPECT_EQ(body["choices"][0]["message"]["content"], FakeBroker::text(0, 3) + "end");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(body["usage"]["total_tokens"], 8);
}

TEST_F(BatchTest, NoMoreThanTheConcurrencyIsUnderWay) {
  std::string in;
  for (int i = 0; i < 30; ++i) in += request("c" + std::to_string(i));
  folder_.write("in", in);
  std::atomic<bool> done{false};
  std::thread worker([&] {
    while (!done) {
      for (int i = 0; i < 30; ++i) {
        const std::string id = parsed(request("c" + std::to_string(i))).spec.job_id;
        if (broker_.has(id)) broker_.finish(id);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  EXPECT_EQ(run(5), 0) << said_;
  done = true;
  worker.join();
  EXPECT_LE(broker_.most_open(), 5u);
  EXPECT_EQ(answers().size(), 30u);
}

TEST_F(BatchTest, ASecondRunSkipsWhatIsAnsweredAndATornLine) {
  broker_.answer_at_once(3);
  folder_.write("in", request("a") + request("b"));
  ASSERT_EQ(run(), 0);
  const std::string whole = folder_.read("out");
  folder_.write("out", whole + R"({"id":"x","custom_id":"c","resp)");
  folder_.write("in", request("a") + request("b") + request("c"));
  EXPECT_EQ(run(), 0) << said_;
  EXPECT_EQ(answers().size(), 3u);
  EXPECT_EQ(broker_.jobs(), 3u);
  EXPECT_EQ(broker_.submits(parsed(request("a")).spec.job_id), 1);
  EXPECT_EQ(run(), 0);
  EXPECT_EQ(answers().size(), 3u);
}

TEST_F(BatchTest, AResumedRunAttachesToJobsThatExist) {
  broker_.answer_at_once(3);
  folder_.write("in", request("a"));
  ASSERT_EQ(run(), 0);
  folder_.write("out", "");
  EXPECT_EQ(run(), 0);
  EXPECT_EQ(answers().size(), 1u);
  EXPECT_EQ(broker_.jobs(), 1u);
}

TEST_F(BatchTest, AWrongRequestIsItsOwnError) {
  broker_.answer_at_once(3);
  folder_.write("in", request("a") + "{\"custom_id\": \"bad\", \"body\": {}}\n" + request("b"));
  EXPECT_EQ(run(), 1);
  EXPECT_THAT(said_, HasSubstr("1 requests failed"));
  const auto all = answers();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all.at("bad")["error"]["code"], "invalid");
  EXPECT_TRUE(all.at("bad")["response"].is_null());
  EXPECT_TRUE(all.at("b")["error"].is_null());
}

TEST_F(BatchTest, ARefusedOrFailedJobIsItsRequestsError) {
  broker_.answer_at_once(3);
  const std::string refused = parsed(request("a")).spec.job_id;
  broker_.intercept([&](FakeBroker& b, const std::string& from, const ClientMessage& m) {
    const auto* s = std::get_if<Submit>(&m);
    if (s == nullptr || s->spec->job_id != refused) return false;
    b.reply(from, Accepted{refused});
    b.reply(from, Failed{refused, ErrorCode::too_long, "9000 tokens"});
    return true;
  });
  folder_.write("in", request("a") + request("b"));
  EXPECT_EQ(run(), 1);
  EXPECT_EQ(answers().at("a")["error"]["code"], "too_long");
}

TEST_F(BatchTest, WhatPassesIsNoAnswer) {
  broker_.answer_at_once(3);
  const std::string hit = parsed(request("b")).spec.job_id;
  folder_.write("in", request("a") + request("b"));
  for (const ErrorCode code : {ErrorCode::storage, ErrorCode::no_worker}) {
    broker_.intercept([&, code](FakeBroker& b, const std::string& from, const ClientMessage& m) {
      const auto* s = std::get_if<Submit>(&m);
      if (s == nullptr || s->spec->job_id != hit) return false;
      b.reply(from, Refused{hit, code, "the disk is full", 0});
      return true;
    });
    EXPECT_EQ(run(1), 1);
    EXPECT_THAT(said_, HasSubstr("the disk is full"));
    EXPECT_THAT(said_, HasSubstr("run the same command again"));
    EXPECT_EQ(std::count(said_.begin(), said_.end(), '\n'), 1) << said_;
    EXPECT_EQ(answers().size(), 1u);
  }
  broker_.intercept({});
  EXPECT_EQ(run(), 0) << said_;
  EXPECT_EQ(answers().size(), 2u);
}

// No file of this process may grow beyond this, while it lives.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) : handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

TEST_F(BatchTest, StopsWhenItCannotWrite) {
  broker_.answer_at_once(3);
  std::string in;
  for (int i = 0; i < 40; ++i) in += request("c" + std::to_string(i));
  folder_.write("in", in);
  {
    const FileLimit limit(1500);
    EXPECT_EQ(run(1), 1);
  }
  EXPECT_THAT(said_, HasSubstr("cannot write"));
  EXPECT_EQ(std::count(said_.begin(), said_.end(), '\n'), 1) << said_;
  EXPECT_GT(broker_.jobs(), 1u);
  EXPECT_LT(broker_.jobs(), 20u);
  EXPECT_EQ(run(), 0) << said_;
  EXPECT_EQ(answers().size(), 40u);
}

TEST_F(BatchTest, TheRequestsAreNeverTheOutput) {
  broker_.answer_at_once(3);
  const std::string in = request("a") + request("b");
  folder_.write("in", in);
  std::filesystem::create_symlink(folder_.file("in"), folder_.file("out"));
  EXPECT_EQ(run(), 1);
  EXPECT_THAT(said_, HasSubstr("another output file"));
  EXPECT_EQ(folder_.read("in"), in);
  std::filesystem::remove(folder_.file("out"));
  const std::string one = request("other");  // and without a line's end it is no torn answer
  for (const std::string& other : {one, one.substr(0, one.size() - 1), std::string("my thesis")}) {
    folder_.write("out", other);
    EXPECT_EQ(run(), 1);
    EXPECT_EQ(folder_.read("out"), other);
  }
  EXPECT_EQ(broker_.jobs(), 0u);
}

TEST_F(BatchTest, ABadLineIsThatLinesErrorAndNeverTheRuns) {
  broker_.answer_at_once(3);
  const std::string huge = R"({"custom_id": "huge", "body": {"messages": [{"role": "user",)"
                           R"("content": ")" + std::string(kLongestBatchLine, 'x') + "\"}]}}\n";
  folder_.write("in", request("a") + "nonsense\n" + request("a", "other") + huge +
                          "{\"custom_id\": \"\xc3\x28\"}\n" + request("b"));
  for (int run_number = 0; run_number < 2; ++run_number) {
    EXPECT_EQ(run(), 1) << "the second run has nothing to do, but the errors are still there";
    EXPECT_THAT(said_, HasSubstr("4 requests failed"));
    std::istringstream in(folder_.read("out"));
    std::map<uint64_t, std::string> errors;
    std::set<std::string> answered;
    for (std::string line; std::getline(in, line);) {
      const json answer = json::parse(line);
      if (answer["custom_id"].is_null()) {
        EXPECT_TRUE(errors.emplace(answer["line"], answer["error"]["message"]).second);
        EXPECT_TRUE(answer["response"].is_null());
      } else {
        EXPECT_TRUE(answered.insert(answer["custom_id"]).second);
        EXPECT_TRUE(answer["error"].is_null());
      }
    }
    EXPECT_EQ(answered, (std::set<std::string>{"a", "b"}));
    ASSERT_EQ(errors.size(), 4u);
    EXPECT_THAT(errors.at(2), HasSubstr("JSON"));
    EXPECT_THAT(errors.at(3), HasSubstr("\"a\" was there before"));
    EXPECT_THAT(errors.at(4), HasSubstr("16 MiB"));
    EXPECT_THAT(errors.at(5), HasSubstr("UTF-8"));
  }
  EXPECT_EQ(broker_.jobs(), 2u);
}

// The second turn of a session is sent when the first has been accepted, however late that is.
TEST_F(BatchTest, TurnsOfASessionAreAcceptedInTheirOrder) {
  broker_.answer_at_once(3);
  std::string in;
  std::vector<std::string> ids;
  for (int i = 0; i < 6; ++i) {
    json line = json::parse(request("c" + std::to_string(i)));
    line["session"] = i % 2 == 0 ? "even" : "odd";
    in += line.dump() + "\n";
    ids.push_back(parsed(line.dump()).spec.job_id);
  }
  std::mutex mutex;
  std::vector<std::string> order;
  std::set<std::string> put_off;
  broker_.intercept([&](FakeBroker& b, const std::string& from, const ClientMessage& m) {
    const auto* s = std::get_if<Submit>(&m);
    if (s == nullptr) return false;
    std::lock_guard lock(mutex);
    // The first turn of each session is told to come again.
    if ((s->spec->job_id == ids[0] || s->spec->job_id == ids[1]) &&
        put_off.insert(s->spec->job_id).second) {
      b.reply(from, Refused{s->spec->job_id, ErrorCode::busy, "busy", 50});
      return true;
    }
    order.push_back(s->spec->job_id);
    return false;
  });
  folder_.write("in", in);
  EXPECT_EQ(run(6), 0) << said_;
  EXPECT_EQ(answers().size(), 6u);
  const auto place = [&](int i) {
    return std::find(order.begin(), order.end(), ids[static_cast<size_t>(i)]) - order.begin();
  };
  for (const int first : {0, 1}) {
    EXPECT_LT(place(first), place(first + 2));
    EXPECT_LT(place(first + 2), place(first + 4));
  }
}

TEST_F(BatchTest, MistakesAreFoundBeforeAnythingIsSent) {
  folder_.write("in", request("a"));
  folder_.write("out", "my thesis\n");
  EXPECT_EQ(run(), 1);
  EXPECT_EQ(folder_.read("out"), "my thesis\n");
  std::filesystem::remove(folder_.file("in"));
  EXPECT_EQ(run(), 1);
  EXPECT_THAT(said_, HasSubstr("cannot read"));
  std::filesystem::create_directory(folder_.file("in"));
  EXPECT_EQ(run(), 1);
  EXPECT_THAT(said_, HasSubstr("cannot read"));
  EXPECT_EQ(broker_.jobs(), 0u);
}

}  // namespace
}  // namespace limpet::client
