// What the broker's scenarios play with: the real limpet-broker as a process of its own in a
// temporary folder, a double of a worker that answers at once, and a client that only counts.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "keys/keys.h"
#include "schema/messages.h"

namespace limpet::bench {

int64_t now_ns();

// limpet-broker from the folder of this program; killed and its folder removed at the end.
class BrokerProcess {
 public:
  // With keys, it lets in one client and one worker.
  explicit BrokerProcess(const std::vector<std::string>& extra_flags = {}, bool with_keys = false);
  ~BrokerProcess();
  void kill_and_restart();  // kill -9; the same folder and endpoints
  int wait_for_exit();      // its exit status
  int pid() const { return pid_; }
  std::string frontend() const { return "ipc://" + folder_ + "/front"; }
  std::string backend() const { return "ipc://" + folder_ + "/back"; }
  const keys::Identity& client() const { return client_; }  // none without keys
  const keys::Identity& worker() const { return worker_; }
  // With keys: the file of a new one, let in as "client TENANT" or "worker" within a moment.
  std::string let_in(const std::string& who);
  std::string server_key_file() const { return folder_ + "/server.pub"; }
  double cpu_seconds() const;       // user and system, so far
  int64_t resident_bytes() const;
  int64_t peak_resident_bytes() const;
  int64_t stored_bytes() const;     // of all files in its data folder

 private:
  void start();
  std::string folder_;
  int let_in_ = 0;
  std::vector<std::string> argv_;
  keys::Identity client_, worker_;
  int pid_ = -1;
};

// One frame at a time over a DEALER socket. One thread.
class Link {
 public:
  explicit Link(const std::string& endpoint, const keys::Identity& identity = {});
  ~Link();
  void send(const std::string& frame);  // waits while the peer does not read
  bool wait(int milliseconds);          // true: a frame is there
  bool receive(std::string& frame);     // does not wait

 private:
  void* context_ = nullptr;
  void* socket_ = nullptr;
};

// Says that it runs whatever it is given, on a thread of its own.
class WorkerDouble {
 public:
  struct Options {
    int64_t tokens = 8;            // of each job
    int32_t slots = 4096;
    double steps_per_second = 0;   // 0: at once
    int64_t start_when = 1;        // the first step waits for so many jobs
    std::vector<std::atomic<int64_t>>* sent_ns = nullptr;  // by token index: when its step left
  };
  WorkerDouble(const std::string& endpoint, Options options, const keys::Identity& identity = {});
  ~WorkerDouble();
  void hold() { holding_ = true; }   // announces no room from now on

 private:
  struct Running {
    JobNumber job{};
    Attempt attempt{};
    int64_t made = 0;
  };
  void run();
  void receive(int wait_ms);
  void begin(const Dispatch& dispatch);
  void step();
  void heartbeat(bool at_once);
  void send_out();

  Link link_;
  Options options_;
  std::vector<Running> running_;
  std::vector<WorkerMessage> out_;
  uint64_t sequence_ = 0;
  int64_t heartbeat_at_ = 0, next_step_at_ = 0;
  bool registered_ = false;
  std::atomic<bool> holding_{false}, stop_{false};
  std::thread thread_;
};

// Submits jobs and follows them, `window` at a time; throws when an answer is not as it must be.
class LoadClient {
 public:
  struct Job {
    std::string id, session;
  };
  explicit LoadClient(const std::string& endpoint, const keys::Identity& identity = {})
      : link_(endpoint, identity) {}

  // Until all of them have finished. `next` names the i-th job.
  void run(int64_t jobs, int64_t window, int64_t tokens, const std::function<Job(int64_t)>& next);
  // Until all of them are accepted.
  void enqueue(int64_t jobs, int64_t tokens, const std::function<Job(int64_t)>& next);

  std::function<void(const Tokens&)> on_tokens;
  int64_t tokens_seen = 0;

 private:
  void submit(int64_t count, int64_t tokens, const std::function<Job(int64_t)>& next);
  void take();
  void check(const BrokerToClient& message);
  Link link_;
  std::string frame_;
  std::vector<BrokerToClient> in_;
  int64_t submitted_ = 0, accepted_ = 0, finished_ = 0, tokens_wanted_ = 0;
};

std::string job_name(int64_t i);  // spread over the id space, as clients' ids are

}  // namespace limpet::bench
