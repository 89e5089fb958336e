// A broker double behind a real ROUTER: it keeps jobs and their outputs over its restarts, and
// does to clients what a test tells it to.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "schema/wire.h"

namespace limpet::test {

class FakeBroker {
 public:
  FakeBroker() { start(); }
  ~FakeBroker() { stop(); }

  const std::string& endpoint() const { return endpoint_; }

  // The process dies: connections and streams are gone, jobs stay.
  void stop() {
    if (!thread_.joinable()) return;
    stop_ = true;
    thread_.join();
    std::lock_guard lock(mutex_);
    streams_.clear();
    outbox_.clear();
  }
  void start() {
    stop_ = false;
    bound_ = false;
    thread_ = std::thread([this] { run(); });
    while (!bound_) std::this_thread::yield();
  }

  // ---- What a test does to it ---------------------------------------------------------------

  // Called for each request before it is served; true: it is taken care of.
  using Intercept = std::function<bool(FakeBroker&, const std::string& from, const ClientMessage&)>;
  void intercept(Intercept f) {
    std::lock_guard lock(mutex_);
    intercept_ = std::move(f);
  }
  // Each accepted job ends at once with these tokens. Without it a test calls make and finish.
  void answer_at_once(int tokens) {
    std::lock_guard lock(mutex_);
    at_once_ = tokens;
  }
  void make(const std::string& job, int tokens) {
    std::lock_guard lock(mutex_);
    make_locked(job, tokens);
  }
  void finish(const std::string& job) {
    std::lock_guard lock(mutex_);
    finish_locked(job);
  }
  // Sends as it is to all that follow the job, or to one.
  void tell(const std::string& job, const BrokerToClient& message) {
    std::lock_guard lock(mutex_);
    tell_locked(job, message);
  }
  void reply(const std::string& to, const BrokerToClient& message) {
    outbox_.push_back({to, message});
  }
  void forget_streams() {
    std::lock_guard lock(mutex_);
    streams_.clear();
  }

  // ---- What a test sees ---------------------------------------------------------------------

  bool has(const std::string& job) {
    std::lock_guard lock(mutex_);
    return jobs_.contains(job);
  }
  bool followed(const std::string& job) {
    std::lock_guard lock(mutex_);
    return !streams_[job].empty();
  }
  int submits(const std::string& job) {
    std::lock_guard lock(mutex_);
    return submits_[job];
  }
  size_t jobs() {
    std::lock_guard lock(mutex_);
    return jobs_.size();
  }
  bool cancelled(const std::string& job) {
    std::lock_guard lock(mutex_);
    return jobs_.contains(job) && jobs_[job].cancelled;
  }
  size_t most_open() {
    std::lock_guard lock(mutex_);
    return most_open_;
  }

  static Token token(int64_t index) { return static_cast<Token>(100 + index); }
  static std::string piece(int64_t index) { return "w" + std::to_string(index) + " "; }
  static std::string text(int64_t from, int64_t to) {
    std::string out;
    for (int64_t i = from; i < to; ++i) out += piece(i);
    return out;
  }
  static Tokens chunk(const std::string& job, int64_t from, int64_t to) {
    Tokens t{job, from, {}, text(from, to), {}};
    for (int64_t i = from; i < to; ++i) t.ids.push_back(token(i));
    return t;
  }

 private:
  struct Job {
    int64_t tokens = 0;
    bool finished = false, cancelled = false;
  };

  void make_locked(const std::string& job, int tokens) {
    const int64_t from = jobs_[job].tokens;
    jobs_[job].tokens += tokens;
    tell_locked(job, chunk(job, from, from + tokens));
  }
  BrokerToClient outcome(const std::string& job) {
    Finished f;
    f.job_id = job;
    f.reason = jobs_[job].cancelled ? FinishReason::cancelled : FinishReason::stop;
    f.usage = {5, 0, jobs_[job].tokens};
    f.tail_text = "end";
    return f;
  }
  void finish_locked(const std::string& job) {
    jobs_[job].finished = true;
    tell_locked(job, outcome(job));
  }
  void tell_locked(const std::string& job, const BrokerToClient& message) {
    for (const std::string& to : streams_[job]) outbox_.push_back({to, message});
  }
  void open_stream(const std::string& from, const std::string& job, int64_t from_index,
                   bool created) {
    const Job& j = jobs_[job];
    streams_[job].insert(from);
    reply(from, Accepted{job, j.finished ? JobState::finished : JobState::queued, created});
    if (from_index < j.tokens) reply(from, chunk(job, from_index, j.tokens));
    if (j.finished) reply(from, outcome(job));
  }

  void serve(const std::string& from, const ClientMessage& message) {
    if (const auto* m = std::get_if<Submit>(&message)) ++submits_[m->spec->job_id];
    if (intercept_ && intercept_(*this, from, message)) return;
    if (const auto* m = std::get_if<Submit>(&message)) {
      const std::string& id = m->spec->job_id;
      const bool created = jobs_.emplace(id, Job{}).second;
      open_stream(from, id, m->from_index, created);
      size_t open = 0;
      for (const auto& [name, job] : jobs_) open += job.finished ? 0 : 1;
      most_open_ = std::max(most_open_, open);
      if (created && at_once_ > 0) {
        make_locked(id, at_once_);
        finish_locked(id);
      }
    } else if (const auto* m = std::get_if<Attach>(&message)) {
      if (jobs_.contains(m->job_id)) {
        open_stream(from, m->job_id, m->from_index, false);
      } else {
        reply(from, Refused{m->job_id, ErrorCode::not_found, "no such job", 0});
      }
    } else if (const auto* m = std::get_if<Detach>(&message)) {
      streams_[m->job_id].erase(from);
    } else if (const auto* m = std::get_if<Cancel>(&message)) {
      if (jobs_.contains(m->job_id) && !jobs_[m->job_id].finished) {
        jobs_[m->job_id].cancelled = true;
        finish_locked(m->job_id);
      } else {
        reply(from, Refused{m->job_id, ErrorCode::not_found, "it is over", 0});
      }
    } else {
      Listed listed;
      for (const auto& [id, job] : jobs_)
        listed.jobs.push_back({id, "", "", {}, 1, job.tokens, ""});
      reply(from, listed);
    }
  }

  void run() {
    zmq::context_t context;
    zmq::socket_t router(context, zmq::socket_type::router);
    router.set(zmq::sockopt::linger, 0);
    router.set(zmq::sockopt::router_mandatory, true);
    router.bind(endpoint_.empty() ? "tcp://127.0.0.1:*" : endpoint_);
    endpoint_ = router.get(zmq::sockopt::last_endpoint);
    bound_ = true;
    while (!stop_) {
      zmq::pollitem_t item{router.handle(), 0, ZMQ_POLLIN, 0};
      zmq::poll(&item, 1, std::chrono::milliseconds(2));
      std::lock_guard lock(mutex_);
      zmq::message_t from, frame;
      while (router.recv(from, zmq::recv_flags::dontwait) && router.recv(frame)) {
        std::vector<ClientMessage> messages;
        wire::decode({static_cast<const std::byte*>(frame.data()), frame.size()}, messages);
        for (const ClientMessage& m : messages) serve(from.to_string(), m);
      }
      for (const auto& [to, message] : outbox_) {
        try {
          router.send(zmq::buffer(to), zmq::send_flags::sndmore);
          router.send(zmq::buffer(wire::encode(std::span(&message, 1))), zmq::send_flags::none);
        } catch (const zmq::error_t&) {  // the client is gone
        }
      }
      outbox_.clear();
    }
  }

  std::string endpoint_;
  std::thread thread_;
  std::atomic<bool> stop_{false}, bound_{false};
  std::mutex mutex_;
  Intercept intercept_;
  int at_once_ = 0;
  size_t most_open_ = 0;
  std::map<std::string, Job> jobs_;
  std::map<std::string, int> submits_;
  std::map<std::string, std::set<std::string>> streams_;
  std::vector<std::pair<std::string, BrokerToClient>> outbox_;
};

}  // namespace limpet::test
