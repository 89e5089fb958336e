// The client's thread: one connection, the jobs that are followed over it, and what the other
// threads want of it.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <queue>
#include <thread>
#include <unordered_map>

#include "clients/cpp/client.h"
#include "clients/cpp/connection.h"
#include "clients/cpp/job_stream.h"

namespace limpet::client {

// A followed job as its follower sees it. `mutex` guards all but the callback and the id.
struct Job::State {
  State(std::string job_id, OnEvent callback)
      : id(std::move(job_id)), on_event(std::move(callback)) {}
  const std::string id;
  const OnEvent on_event;
  std::weak_ptr<Client::Loop> loop;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Event> events;
  bool ended = false;  // no more events will be added
};

class Client::Loop {
 public:
  explicit Loop(const Options& options);
  ~Loop();

  // Any thread.
  bool wait_connected(Millis timeout);
  int connections() const;
  std::string refused() const;
  void follow(std::shared_ptr<Job::State> job, JobSpec spec);  // an id alone: attach
  void follow(std::shared_ptr<Job::State> job, int64_t from_index);
  void cancel(const std::shared_ptr<Job::State>& job);
  void forget(const std::shared_ptr<Job::State>& job);
  Listing list(const List& what, Millis timeout);
  Releasing release(const Release& what, Millis timeout);
  Retrying retry(const Retry& what, Millis timeout);
  Draining drain(const std::string& worker, uint64_t incarnation, Millis timeout);

 private:
  struct Followed {
    JobStream stream;
    std::shared_ptr<Job::State> job;
    Time scheduled = Time::max();  // of its earliest entry in due_
  };
  // A List, a Drain, a Release or a Retry; answers come in the order of the questions.
  struct Request {
    ClientMessage what;
    bool answered = false, abandoned = false;
    std::string error;
    Listed listed;
    DrainStatus drained;
    Released released;
    Retried retried;
  };
  struct Due {
    Time at;
    std::string job_id;
    bool operator>(const Due& o) const { return at > o.at; }
  };

  void run();
  void post(std::function<void()> command);
  void run_commands();
  void open(std::shared_ptr<Job::State> job, std::shared_ptr<const JobSpec> spec,
            int64_t from_index);
  void on_connection(const Connection::Arrived& arrived, Time now);
  void on_message(BrokerToClient&& message, Time now);
  void on_refused_frame(const Refused& refused, Time now);
  void on_answer(const std::function<void(Request&)>& fill);
  std::shared_ptr<Request> request(ClientMessage what, Millis timeout);
  void ask_all(Time now);
  void ask_due(Time now);
  void ask(Followed& followed, Time now);
  void schedule(Followed& followed);
  void wait_from(Time now);
  void look_at_patience(Time now);
  void give_up_all(const std::string& why);
  void deliver(Job::State& job, std::vector<Event>& events);
  Millis until_next(Time now) const;
  std::string unconnected() const;  // under the mutex, or on the thread that writes refused_

  const Options options_;
  int wake_fd_;
  Connection connection_;

  // The thread's own.
  std::unordered_map<std::string, Followed> jobs_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>>
      due_;  // streams may be due later than told here
  std::deque<std::shared_ptr<Request>> requests_;
  std::vector<ClientMessage> out_;
  std::optional<Time> waiting_since_;  // something was asked, or the connection broke: no word yet

  // Shared.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::function<void()>> commands_;
  int connections_ = 0;
  bool connected_ = false, stop_ = false;
  std::string refused_;  // why the last try to connect came to nothing, if it was told

  std::thread thread_;
};

}  // namespace limpet::client
