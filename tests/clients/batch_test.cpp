#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>

#include "clients/cli/batch_lines.h"
#include "clients/cli/commands.h"
#include "tests/clients/fake_broker.h"
#include "tests/clients/temporary_folder.h"

namespace limpet::client {
namespace {

using nlohmann::json;
using test::FakeBroker;
using testing::HasSubstr;
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
  EXPECT_THAT(error(R"({"messages": []})"), HasSubstr("messages"));
  EXPECT_THAT(error(R"({"messages": [4]})"), HasSubstr("message"));
  EXPECT_THAT(error(R"({"messages": [{"content": "x"}]})"), HasSubstr("role"));
  const std::string fine = R"("messages": [{"role": "user", "content": "x"}])";
  EXPECT_EQ(error("{" + fine + "}"), "");
  EXPECT_THAT(error("{" + fine + R"(, "max_tokens": "9"})"), HasSubstr("max_tokens"));
  EXPECT_THAT(error("{" + fine + R"(, "max_tokens": 0})"), HasSubstr("max_tokens"));
  EXPECT_THAT(error("{" + fine + R"(, "max_tokens": 9999999999})"), HasSubstr("max_tokens"));
  EXPECT_THAT(error("{" + fine + R"(, "temperature": -1})"), HasSubstr("temperature"));
  EXPECT_THAT(error("{" + fine + R"(, "n": 2})"), HasSubstr("n must"));
  EXPECT_THAT(error("{" + fine + R"(, "stop": [1]})"), HasSubstr("stop"));
  EXPECT_THAT(parsed(R"({"custom_id": "c", "url": "/v1/embeddings", "body": {}})").error,
              HasSubstr("url"));
  BatchLine out;
  for (const char* line :
       {"", "nonsense", "[]", "{}", R"({"custom_id": ""})", R"({"custom_id": 5, "body": {}})"}) {
    EXPECT_FALSE(parse_batch_line(line, 256, out)) << line;
    EXPECT_FALSE(out.error.empty());
  }
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

TEST_F(BatchTest, MistakesAreFoundBeforeAnythingIsSent) {
  folder_.write("in", request("a") + request("b") + request("a"));
  EXPECT_EQ(run(), 1);
  EXPECT_THAT(said_, HasSubstr("line 3"));
  folder_.write("in", request("a") + "nonsense\n");
  EXPECT_EQ(run(), 1);
  EXPECT_THAT(said_, HasSubstr("line 2"));
  folder_.write("in", request("a"));
  folder_.write("out", "my thesis\n");
  EXPECT_EQ(run(), 1);
  EXPECT_EQ(folder_.read("out"), "my thesis\n");
  std::filesystem::remove(folder_.file("in"));
  EXPECT_EQ(run(), 1);
  EXPECT_THAT(said_, HasSubstr("cannot read"));
  EXPECT_EQ(broker_.jobs(), 0u);
}

}  // namespace
}  // namespace limpet::client
