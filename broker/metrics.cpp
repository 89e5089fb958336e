#include "broker/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <unordered_map>

namespace limpet::broker {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;

const Buckets kShort{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
                     0.01,   0.025,   0.05,   0.1,   0.25,   1};
const Buckets kLong{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
                    300};
const Buckets kEntries{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384};

// Metrics of one family by the value of one label; each value is looked up once.
template <typename T, typename... Args>
class ByLabel {
 public:
  ByLabel(Family<T>& family, std::string label, Args... args)
      : family_(family), label_(std::move(label)), args_(std::move(args)...) {}
  T& operator[](const std::string& value) {
    T*& metric = known_[value];
    if (metric == nullptr) {
      metric = std::apply(
          [&](const auto&... args) { return &family_.Add({{label_, value}}, args...); }, args_);
    }
    return *metric;
  }

 private:
  Family<T>& family_;
  std::string label_;
  std::tuple<Args...> args_;
  std::unordered_map<std::string, T*> known_;
};

// A reason may go on after a colon with words that belong in a log, not in a label.
std::string label(const std::string& reason) { return reason.substr(0, reason.find(':')); }

template <typename T, typename Build>
Family<T>& family(Build build, prometheus::Registry& registry, const char* name,
                  const char* help) {
  return build.Name(name).Help(help).Register(registry);
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;

  Family<Counter>& counters(const char* name, const char* help) {
    return family<Counter>(prometheus::BuildCounter(), registry, name, help);
  }
  Family<Gauge>& gauges(const char* name, const char* help) {
    return family<Gauge>(prometheus::BuildGauge(), registry, name, help);
  }
  Family<Histogram>& histograms(const char* name, const char* help) {
    return family<Histogram>(prometheus::BuildHistogram(), registry, name, help);
  }

  ByLabel<Counter> jobs_total{
      counters("limpet_broker_jobs_total", "Jobs that have ended, by outcome."), "outcome"};
  ByLabel<Gauge> jobs{gauges("limpet_broker_jobs", "Jobs that have not ended, by state."), "state"};
  ByLabel<Counter> dispatches{
      counters("limpet_broker_dispatches_total", "Attempts started, by what they found."),
      "residency"};
  ByLabel<Counter> affinity_breaks{
      counters("limpet_broker_affinity_breaks_total", "Sessions that left their home, by reason."),
      "reason"};
  ByLabel<Counter> hand_overs{
      counters("limpet_broker_hand_overs_total",
               "Sessions of workers that left, by what became of moving their KV."),
      "outcome"};
  ByLabel<Gauge> sessions{gauges("limpet_broker_sessions", "Open sessions, by state."), "state"};
  ByLabel<Gauge> workers{gauges("limpet_broker_workers", "Registered workers, by state."), "state"};
  ByLabel<Counter> redeliveries{
      counters("limpet_broker_redeliveries_total", "Attempts that ended without an outcome."),
      "reason"};
  ByLabel<Counter> rejections{
      counters("limpet_broker_rejections_total", "Requests that were refused, by code."), "code"};
  ByLabel<Counter> handshakes{counters("limpet_broker_handshakes_refused_total",
                                       "Connections that were refused, by reason."),
                              "reason"};
  Family<Counter>& retired_family =
      counters("limpet_broker_retired_total", "What ended and is not kept any more.");
  Counter* retired[2][2] = {};  // job, session; age, size
  Gauge& store_bytes =
      gauges("limpet_broker_store_bytes", "Of the store's file, without its free pages.").Add({});
  Histogram& commit_seconds =
      histograms("limpet_broker_commit_seconds", "Time to make one turn of the loop durable.")
          .Add({}, kShort);
  Histogram& commit_entries =
      histograms("limpet_broker_commit_entries", "Journal entries made durable together.")
          .Add({}, kEntries);
  Histogram& queue_seconds =
      histograms("limpet_broker_queue_seconds", "From acceptance to dispatch.").Add({}, kLong);
  Histogram& inter_token =
      histograms("limpet_broker_inter_token_seconds",
                 "Between the tokens of a job, as they got durable.")
          .Add({}, kShort);
  Family<Histogram>& first_token = histograms(
      "limpet_broker_first_token_seconds", "From acceptance to the first durable token.");
  Histogram* first_tokens[2][4] = {};
  std::unordered_map<JobNumber, Time> last_token;
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  Impl& m = *impl_;
  for (auto s : {JobState::finished, JobState::failed, JobState::cancelled, JobState::expired}) {
    m.jobs_total[std::string(name(s))];
  }
  for (int r = 0; r <= raw(Residency::reprefilled); ++r) {
    const std::string residency(name(Residency(r)));
    m.dispatches[residency];
    for (const bool later : {false, true}) {
      m.first_tokens[later][r] = &m.first_token.Add(
          {{"turn", later ? "later" : "first"}, {"residency", residency}}, kLong);
    }
  }
  m.rejections[std::string(name(ErrorCode::busy))];
  for (const int session : {0, 1}) {
    for (const int size : {0, 1}) {
      m.retired[session][size] = &m.retired_family.Add(
          {{"what", session ? "session" : "job"}, {"why", size ? "size" : "age"}});
    }
  }
  for (const char* why : {"released", "keep_alive", "balance_factor"}) m.affinity_breaks[why];
  for (const Reason why : {Reason::worker_lost, Reason::evicted, Reason::drained,
                           Reason::start_deadline, Reason::model_changed}) {
    m.affinity_breaks[std::string(name(why))];
  }
  for (const char* why : {"worker_lost", "start_deadline", "attempt_deadline", "dispatch_lost",
                          "worker_error", "ended_early", "drained"}) {
    m.redeliveries[why];
  }
  for (const char* why : {"unknown_key", "mechanism", "wrong_server_key", "protocol", "malformed",
                          "broken_off"}) {
    m.handshakes[why];
  }
  for (const char* outcome : {"moved", "no_room", "giver", "receiver", "timeout", "overtaken"}) {
    m.hand_overs[outcome];
  }
  set({});
}

Metrics::~Metrics() = default;

void Metrics::count(const Fact& f) {
  Impl& m = *impl_;
  switch (f.kind) {
    case Fact::Kind::job_ended: m.jobs_total[f.detail].Increment(); break;
    case Fact::Kind::dispatched: m.dispatches[std::string(name(f.residency))].Increment(); break;
    case Fact::Kind::requeued: m.redeliveries[label(f.detail)].Increment(); break;
    case Fact::Kind::hand_over: m.hand_overs[label(f.detail)].Increment(); break;
    case Fact::Kind::affinity_break: m.affinity_breaks[label(f.detail)].Increment(); break;
    case Fact::Kind::rejected: m.rejections[f.detail].Increment(); break;
    case Fact::Kind::queue_left: m.queue_seconds.Observe(f.seconds); break;
    case Fact::Kind::first_token:
      m.first_tokens[f.later_turn][raw(f.residency)]->Observe(f.seconds);
      break;
    case Fact::Kind::session_retired: m.retired[1][f.detail == "size"]->Increment(); break;
    case Fact::Kind::job_accepted:
    case Fact::Kind::worker_registered:
    case Fact::Kind::worker_lost:
    case Fact::Kind::worker_left:
    case Fact::Kind::stale_message:
    case Fact::Kind::home_kept: break;
  }
}

void Metrics::handshakes_refused(const std::string& reason, int64_t n) {
  impl_->handshakes[reason].Increment(static_cast<double>(n));
}

void Metrics::committed(double seconds, size_t entries) {
  impl_->commit_seconds.Observe(seconds);
  impl_->commit_entries.Observe(static_cast<double>(entries));
}

void Metrics::follow(const JobEvent& event, Time now) {
  auto& last = impl_->last_token;
  if (const auto* row = std::get_if<OutputRow>(&event.what)) {
    auto [it, first] = last.try_emplace(event.job, now);
    if (first || row->ids.empty()) return;
    // Tokens that came together are so many gaps, of equal length.
    const double gap = std::chrono::duration<double>(now - it->second).count();
    const auto n = static_cast<double>(row->ids.size());
    for (size_t i = 0; i < row->ids.size(); ++i) impl_->inter_token.Observe(gap / n);
    it->second = now;
  } else if (std::holds_alternative<JobEndedEntry>(event.what)) {
    last.erase(event.job);
  }
}

void Metrics::set(const Core::Gauges& g) {
  Impl& m = *impl_;
  m.jobs["queued"].Set(static_cast<double>(g.queued));
  m.jobs["dispatched"].Set(static_cast<double>(g.dispatched));
  m.jobs["running"].Set(static_cast<double>(g.running));
  m.sessions["idle"].Set(static_cast<double>(g.sessions_idle));
  m.sessions["queued"].Set(static_cast<double>(g.sessions_queued));
  m.sessions["running"].Set(static_cast<double>(g.sessions_running));
  m.sessions["homed"].Set(static_cast<double>(g.sessions_homed));
  m.workers["ready"].Set(static_cast<double>(g.workers_ready));
  m.workers["silent"].Set(static_cast<double>(g.workers_silent));
}

void Metrics::retired_jobs(int64_t by_age, int64_t by_size) {
  impl_->retired[0][0]->Increment(static_cast<double>(by_age));
  impl_->retired[0][1]->Increment(static_cast<double>(by_size));
}

void Metrics::store_bytes(int64_t bytes) { impl_->store_bytes.Set(static_cast<double>(bytes)); }

std::string Metrics::text() const {
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace limpet::broker
