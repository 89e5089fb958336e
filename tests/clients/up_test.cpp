// `limpet up` over programs that are scripts: what it starts, says, and leaves behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/processes.h"
#include "tests/clients/fake_broker.h"
#include "tests/clients/temporary_folder.h"

namespace limpet::client {
namespace {

using testing::HasSubstr;
using testing::internal::CaptureStderr;
using testing::internal::CaptureStdout;
using testing::internal::GetCapturedStderr;
using testing::internal::GetCapturedStdout;
using namespace std::chrono_literals;

class UpTest : public testing::Test {
 protected:
  UpTest() {
    forget_interrupts();
    std::filesystem::create_directories(folder_.path() / "model");
    folder_.write("model/config.json", "{}");
    folder_.write("model/tokenizer.json", "{}");
    options_.bin = folder_.path().string();
    options_.model = folder_.file("model");
    options_.data = folder_.file("data");
    options_.workers = 2;
  }
  ~UpTest() override { forget_interrupts(); }

  void script(const std::string& name, const std::string& body) {
    folder_.write(name, "#!/bin/sh\n" + body);
    std::filesystem::permissions(folder_.file(name), std::filesystem::perms::owner_all);
  }
  int run() {
    CaptureStderr();
    CaptureStdout();
    const int status = up(options_);
    told_ = GetCapturedStdout();
    said_ = GetCapturedStderr();
    return status;
  }
  void expect_one_line(const std::string& with) {
    EXPECT_EQ(std::count(said_.begin(), said_.end(), '\n'), 1) << said_;
    EXPECT_THAT(said_, HasSubstr(with));
  }
  // True while the process whose id a script wrote there lives.
  bool lives(const std::string& pid_file) {
    const std::string text = folder_.read(pid_file);
    return !text.empty() && kill(std::stoi(text), 0) == 0;
  }

  test::TemporaryFolder folder_;
  UpOptions options_;
  std::string said_, told_;
};

constexpr const char* kWait = "echo $$ > \"$(dirname $0)/$(basename $0).pid\"; exec sleep 60\n";
const std::string kBound = "echo 'level=info event=http address=x' >&2; ";

// A broker that listens where up's would, with workers that are ready.
// What it returns becomes true once it has said so.
std::shared_ptr<std::atomic<bool>> lists_ready_workers(test::FakeBroker& broker) {
  auto told = std::make_shared<std::atomic<bool>>(false);
  broker.intercept([told](test::FakeBroker& b, const std::string& from, const ClientMessage& m) {
    if (!std::holds_alternative<List>(m)) return false;
    Listed listed;
    for (const char* name : {"worker-1", "worker-2"}) {
      WorkerInfo& info = listed.workers.emplace_back();
      info.worker = name;
      info.state = "ready";
    }
    b.reply(from, listed);
    *told = true;
    return true;
  });
  return told;
}

void wait_for(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(5ms);
}

int port_of(const test::FakeBroker& broker) {
  return std::stoi(broker.endpoint().substr(broker.endpoint().rfind(':') + 1));
}

TEST_F(UpTest, AWrongModelFolder) {
  script("limpet-broker", kWait);
  script("limpet-worker", kWait);
  std::filesystem::remove(folder_.file("model/tokenizer.json"));
  EXPECT_EQ(run(), 1);
  expect_one_line(options_.model);
  EXPECT_THAT(said_, HasSubstr("tokenizer.json"));
  EXPECT_EQ(folder_.read("limpet-broker.pid"), "");
}

TEST_F(UpTest, AWorkerThatTheBrokerRefusesIsTheEnd) {
  test::FakeBroker broker;
  broker.intercept([](test::FakeBroker& b, const std::string& from, const ClientMessage& m) {
    if (!std::holds_alternative<List>(m)) return false;
    b.reply(from, Listed{});
    return true;
  });
  options_.port = port_of(broker);
  script("limpet-broker", kBound + kWait);
  script("limpet-worker",
         "echo 'level=error event=refused why=\"too many workers\"' >&2; " + std::string(kWait));
  EXPECT_EQ(run(), 1);
  expect_one_line("the broker refuses worker-");  // either may be the first
  expect_one_line(": too many workers\n");
  EXPECT_FALSE(lives("limpet-broker.pid"));
  EXPECT_FALSE(lives("limpet-worker.pid"));
}

TEST_F(UpTest, ADataFolderThatCannotBeMade) {
  script("limpet-broker", kWait);
  script("limpet-worker", kWait);
  options_.data = "/proc/limpet";
  EXPECT_EQ(run(), 1);
  expect_one_line("/proc/limpet");
  EXPECT_THAT(said_, HasSubstr("--data"));
}

TEST_F(UpTest, ProgramsThatAreNotThere) {
  EXPECT_EQ(run(), 1);
  expect_one_line("limpet-broker");
}

TEST_F(UpTest, ABrokerThatCannotStartIsQuotedAndTheRestIsStopped) {
  script("limpet-broker", "sleep 0.2; echo starting >&2; echo 'address in use' >&2; exit 1\n");
  script("limpet-worker", kWait);
  EXPECT_EQ(run(), 1);
  expect_one_line("address in use");
  EXPECT_THAT(said_, HasSubstr("exit status 1"));
  EXPECT_FALSE(lives("limpet-worker.pid"));
}

TEST_F(UpTest, IsUpWhenItsBrokerListensAndItsWorkersAreThere) {
  test::FakeBroker broker;
  const auto listed = lists_ready_workers(broker);
  options_.port = port_of(broker);
  script("limpet-broker", kBound + kWait);
  script("limpet-worker", kWait);
  std::thread interrupter([&] {
    wait_for([&] { return *listed && folder_.read("limpet-worker.pid") != ""; });
    std::this_thread::sleep_for(300ms);
    kill(getpid(), SIGINT);
  });
  EXPECT_EQ(run(), 0) << said_;
  interrupter.join();
  EXPECT_THAT(told_, HasSubstr("limpet is up: 2 workers"));
  EXPECT_FALSE(lives("limpet-worker.pid"));
}

TEST_F(UpTest, AnotherBrokerOnItsPortsIsNotItsOwn) {
  test::FakeBroker other;
  lists_ready_workers(other);
  options_.port = port_of(other);
  std::filesystem::create_directories(options_.data);
  folder_.write("data/broker.log", "level=info event=http address=yesterday\n");
  script("limpet-broker", "sleep 0.7; echo 'cannot listen on 5555' >&2; exit 1\n");
  script("limpet-worker", kWait);
  EXPECT_EQ(run(), 1);
  EXPECT_EQ(told_, "");
  expect_one_line("cannot listen on 5555");
  EXPECT_EQ(folder_.read("limpet-worker.pid"), "") << "a worker was started for another broker";
}

TEST_F(UpTest, ARestartKeepsTheLogOfACrash) {
  test::FakeBroker broker;
  const auto listed = lists_ready_workers(broker);
  options_.port = port_of(broker);
  options_.workers = 1;
  options_.restart = true;
  script("limpet-broker", kBound + kWait);
  script("limpet-worker",
         "d=$(dirname $0)\n[ -e $d/crashed ] && { touch $d/again; exec sleep 60; }\n"
         "while [ ! -e $d/up ]; do sleep 0.05; done\n"
         "touch $d/crashed; echo 'damaged memory' >&2; kill -SEGV $$\n");
  std::thread interrupter([&] {
    wait_for([&] { return listed->load(); });
    std::this_thread::sleep_for(300ms);
    folder_.write("up", "");
    wait_for([&] { return std::filesystem::exists(folder_.file("again")); });
    kill(getpid(), SIGINT);
  });
  EXPECT_EQ(run(), 0) << said_;
  interrupter.join();
  EXPECT_THAT(said_, HasSubstr("starting it again"));
  EXPECT_EQ(folder_.read("data/worker-1.log"), "damaged memory\n");
}

TEST_F(UpTest, StopsOnAnInterruptEvenBeforeAllIsReady) {
  script("limpet-broker", kWait);
  script("limpet-worker", kWait);
  std::thread interrupter([] {
    std::this_thread::sleep_for(300ms);
    kill(getpid(), SIGINT);
  });
  EXPECT_EQ(run(), 0);
  interrupter.join();
  EXPECT_EQ(said_, "");
  EXPECT_NE(folder_.read("limpet-broker.pid"), "");
  EXPECT_FALSE(lives("limpet-broker.pid"));
  EXPECT_FALSE(lives("limpet-worker.pid"));
}

TEST(Process, AStubbornProcessIsKilledAfterTheGrace) {
  test::TemporaryFolder folder;
  const std::string log = folder.file("log");
  std::vector<Process> all;
  all.emplace_back(
      "stubborn",
      std::vector<std::string>{"/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"}, log);
  all[0].start();
  std::this_thread::sleep_for(200ms);
  const auto began = std::chrono::steady_clock::now();
  stop_all(all, 300ms);
  EXPECT_FALSE(all[0].running());
  EXPECT_EQ(all[0].how(), "signal 9");
  EXPECT_LT(std::chrono::steady_clock::now() - began, 5s);
}

TEST(Process, ItsLastWordsAndHowItEnded) {
  test::TemporaryFolder folder;
  Process p("p", {"/bin/sh", "-c", "echo one; echo two; echo; exit 3"}, folder.file("log"));
  p.start();
  while (p.running()) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(p.last_words(), "two");
  EXPECT_EQ(p.how(), "exit status 3");
  Process silent("silent", {"/bin/sh", "-c", "exit 0"}, folder.file("log"));
  silent.start();
  while (silent.running()) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(silent.last_words(), "") << "these are another's";
  EXPECT_FALSE(silent.has_said("one"));
  EXPECT_TRUE(p.has_said("one"));
  Process missing("missing", {folder.file("nothing")}, folder.file("log"));
  missing.start();
  while (missing.running()) std::this_thread::sleep_for(5ms);
  EXPECT_THAT(missing.how(), HasSubstr("cannot be run"));
}

}  // namespace
}  // namespace limpet::client
