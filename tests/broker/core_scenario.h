// A broker's core with a disk beside it, told events by hand: the stage of the core's tests.
#pragma once
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "broker/core.h"
#include "tests/sim/reference_store.h"

namespace limpet::broker {

using std::chrono::milliseconds;

inline JobStarted started(const Dispatch& d) {
  JobStarted m;
  m.job = d.job;
  m.attempt = d.attempt;
  return m;
}
inline JobEnded ended(const Dispatch& d, bool ok = true) {
  JobEnded m;
  m.job = d.job;
  m.attempt = d.attempt;
  m.ok = ok;
  return m;
}

class Scenario {
 public:
  explicit Scenario(CoreOptions options = {}) : options_(options), core_(options) {}

  // Time goes on; what is due happens.
  void pass(milliseconds ms) {
    now_.mono += ms;
    now_.wall += ms.count();
    tell(Wake{});
  }
  // As pass(), but these workers go on with their heartbeats, which list what they have.
  void pass_alive(milliseconds ms, std::vector<int> workers) {
    for (milliseconds done{0}; done < ms; done += options_.heartbeat) {
      for (const int w : workers) heartbeat(w);
      pass(options_.heartbeat);
    }
  }

  Output& tell(const Event& event) {
    out_ = Output{};
    core_.step(now_, event, out_);
    store_.commit(out_.append);  // throws when an entry contradicts what is stored
    for (const Send& s : out_.send) note(s);
    facts_.insert(facts_.end(), out_.facts.begin(), out_.facts.end());
    return out_;
  }
  // The broker dies and a new one reads what is stored. Workers have to connect anew.
  void restart() {
    core_ = Core(options_);
    for (const JournalEntry& e : store_.snapshot()) core_.apply(e);
    core_.recovered(now_);
    connections_ += 100;
  }

  // ---- Clients.
  static JobSpec spec(const std::string& id, const std::string& session = "") {
    JobSpec s;
    s.job_id = id;
    s.session = session;
    s.kind = InputKind::tokens;
    s.tokens = {1, 2, 3};
    s.max_tokens = 8;
    return s;
  }
  Output& submit(const std::string& id, const std::string& session = "") {
    return submit(spec(id, session));
  }
  Output& submit(const JobSpec& s) {
    return client(Submit{std::make_shared<JobSpec>(s)}, s.job_id, s.tokens.size());
  }
  Output& client(ClientMessage m, const std::string& id, uint64_t body_hash = 0) {
    return tell(ClientEvent{ClientId{1}, std::move(m), body_hash, store_.find_ended(id, tenant_),
                            tenant_, admin_});
  }
  Output& cancel(const std::string& id) { return client(Cancel{id}, id); }

  // ---- Workers: number w is named "w<w>" and is of incarnation 10 w + life.
  struct Held {
    Dispatch dispatch;
    int64_t made = 0;
    bool started = false, ended = false;
  };
  struct Double {
    int life = 1;
    int32_t slots = 2;
    int64_t free_kv = 10000, idle_kv = 0, spill_kv = 0;
    uint64_t model = 7;
    int64_t page = 1;
    uint64_t beat = 0;
    std::vector<HeldSession> sessions;
    std::vector<Held> jobs;
    std::vector<BrokerToWorker> got;
  };
  Double& at(int w) { return workers_[w]; }
  WorkerId connection(int w) const { return WorkerId{connections_ + static_cast<uint64_t>(w)}; }
  uint64_t incarnation(int w) { return static_cast<uint64_t>(10 * w + at(w).life); }

  Output& enroll(int w) { return say(w, hello(w)); }
  // One that gives and takes KV.
  Output& enroll_with_transfer(int w) {
    Register r = hello(w);
    r.transfer = "ipc://w" + std::to_string(w);
    r.kv_layout = layout_of_.contains(w) ? layout_of_[w] : 7;
    return say(w, r);
  }
  Register hello(int w) {
    Register r;
    r.worker = "w" + std::to_string(w);
    r.incarnation = incarnation(w);
    r.model_fingerprint = at(w).model;
    r.kv_page_tokens = at(w).page;
    r.max_context = 4096;
    r.room = room(w);
    r.sessions = at(w).sessions;
    r.jobs = listed(w);
    return r;
  }
  Output& heartbeat(int w) {
    return say(w, Heartbeat{incarnation(w), ++at(w).beat, room(w), listed(w)});
  }
  Output& say(int w, WorkerMessage m) { return tell(WorkerEvent{connection(w), std::move(m)}); }
  // The job's dispatch that worker w got last; fails when there is none.
  Held& held(int w, const std::string& id) {
    for (auto it = at(w).jobs.rbegin(); it != at(w).jobs.rend(); ++it)
      if (it->dispatch.spec->job_id == id) return *it;
    ADD_FAILURE() << "w" << w << " was not given " << id;
    static Held none;
    return none;
  }
  bool has(int w, const std::string& id) {
    for (const Held& h : at(w).jobs)
      if (h.dispatch.spec->job_id == id) return true;
    return false;
  }
  Output& start(int w, const std::string& id) {
    Held& h = held(w, id);
    h.started = true;
    JobStarted m = limpet::broker::started(h.dispatch);
    m.residency =
        h.dispatch.home_reason == Reason::none ? Residency::resident : Residency::reprefilled;
    m.reason = h.dispatch.home_reason;
    if (h.dispatch.prompt_tokens < 0) m.prompt = {1, 2, 3};
    h.made = h.dispatch.output_tokens;
    return say(w, m);
  }
  StepTokens tokens(int w, const std::string& id, int64_t from, int n) {
    const Held& h = held(w, id);
    StepTokens m;
    for (int64_t i = from; i < from + n; ++i) {
      m.rows.push_back(
          {h.dispatch.job, h.dispatch.attempt, i, {static_cast<Token>(100 + i)}, "x", {}});
    }
    return m;
  }
  Output& make(int w, const std::string& id, int n) {
    Held& h = held(w, id);
    StepTokens m = tokens(w, id, h.made, n);
    h.made += n;
    return say(w, m);
  }
  Output& end(int w, const std::string& id) {
    Held& h = held(w, id);
    h.ended = true;
    JobEnded m = limpet::broker::ended(h.dispatch);
    m.output_tokens = h.made;
    return say(w, m);
  }
  void run(int w, const std::string& id) {
    start(w, id);
    make(w, id, 8);
    end(w, id);
  }
  // The worker forgets everything: a new process of the same name.
  void rebirth(int w) {
    ++at(w).life;
    at(w).beat = 0;
    at(w).sessions.clear();
    at(w).jobs.clear();
  }

  // ---- What came of it.
  const sim::ReferenceStore::Job& job(const std::string& id) {
    const auto* j = store_.find(id);
    if (!j) throw std::logic_error("no job " + id);
    return *j;
  }
  JobState state(const std::string& id) { return job(id).state; }
  const sim::ReferenceStore::Session& session_of(const std::string& id) {
    return *store_.find(job(id).accepted.session);
  }
  // The last answer to a client of this kind in the last event's output, or null.
  template <typename T>
  const T* told_client() {
    for (auto it = out_.send.rbegin(); it != out_.send.rend(); ++it) {
      if (const auto* to = std::get_if<ToClient>(&*it))
        if (const auto* m = std::get_if<T>(&to->message)) return m;
    }
    return nullptr;
  }
  template <typename T>
  const T* told_worker(int w) {
    for (auto it = out_.send.rbegin(); it != out_.send.rend(); ++it) {
      const auto* to = std::get_if<ToWorker>(&*it);
      if (!to || to->worker != connection(w)) continue;
      if (const auto* m = std::get_if<T>(&to->message)) return m;
    }
    return nullptr;
  }

  // The details of all facts of this kind so far.
  std::vector<std::string> told(Fact::Kind kind) const {
    std::vector<std::string> details;
    for (const Fact& f : facts_)
      if (f.kind == kind) details.push_back(f.detail);
    return details;
  }
  Core& core() { return core_; }
  Output& out() { return out_; }
  Now now() const { return now_; }
  Now& clock() { return now_; }
  sim::ReferenceStore& store() { return store_; }

 private:
  Room room(int w) {
    int32_t busy = 0;
    for (const Held& h : at(w).jobs) busy += !h.ended;
    return {std::max(0, at(w).slots - busy), at(w).free_kv, 10000, at(w).idle_kv, at(w).spill_kv};
  }
  std::vector<HeldJob> listed(int w) {
    std::vector<HeldJob> all;
    for (const Held& h : at(w).jobs) {
      all.push_back({h.dispatch.job, h.dispatch.attempt, h.made, h.started, h.ended});
    }
    return all;
  }
  void forget(int w, JobNumber job, Attempt attempt) {
    std::erase_if(at(w).jobs, [&](const Held& h) {
      return h.dispatch.job == job && h.dispatch.attempt == attempt;
    });
  }
  void note(const Send& s) {
    const auto* to = std::get_if<ToWorker>(&s);
    if (!to || raw(to->worker) < connections_) return;
    const int w = static_cast<int>(raw(to->worker) - connections_);
    at(w).got.push_back(to->message);
    if (const auto* d = std::get_if<Dispatch>(&to->message)) {
      if (deaf_) return;
      at(w).jobs.push_back({*d});
      std::erase_if(at(w).sessions, [&](const HeldSession& h) { return h.session == d->session; });
      at(w).sessions.push_back({d->session, d->epoch, d->base_tokens});
    } else if (const auto* ack = std::get_if<EndAck>(&to->message)) {
      forget(w, ack->job, ack->attempt);
    } else if (const auto* c = std::get_if<CancelJob>(&to->message)) {
      forget(w, c->job, c->attempt);
    } else if (const auto* r = std::get_if<ReleaseSession>(&to->message)) {
      std::erase_if(at(w).sessions, [&](const HeldSession& h) {
        return h.session == r->session && h.epoch <= r->epoch;
      });
    } else if (const auto* r = std::get_if<Registered>(&to->message)) {
      for (const auto& d : r->drop) forget(w, d.job, d.attempt);
    }
  }

 public:
  std::map<int, uint64_t> layout_of_;  // of workers with another than the rest
  bool deaf_ = false;  // dispatches are lost on their way
  std::string tenant_;  // who the client is
  bool admin_ = false;

 private:
  CoreOptions options_;
  Core core_;
  Now now_{Time{} + std::chrono::hours(1), 1'700'000'000'000};
  sim::ReferenceStore store_;
  Output out_;
  std::vector<Fact> facts_;  // of all turns
  std::map<int, Double> workers_;
  uint64_t connections_ = 100;
};

}  // namespace limpet::broker
