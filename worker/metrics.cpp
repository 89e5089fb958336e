#include "worker/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>

namespace limpet::worker {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;

const Buckets kSeconds{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                       0.05,   0.1,     0.25,   0.5,   1,      2.5,   5,    10};
const Buckets kRows{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};

// The core and the engine count for themselves; a counter here follows their sums.
void follow(Counter& counter, double sum) {
  const double more = sum - counter.Value();
  if (more > 0) counter.Increment(more);
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;

  Family<Counter>& counters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  Family<Gauge>& gauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }
  Family<Histogram>& histograms(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
  }

  Family<Counter>& tokens =
      counters("limpet_worker_tokens_total", "Token rows computed, by phase.");
  Counter& prefilled = tokens.Add({{"phase", "prefill"}});
  Counter& decoded = tokens.Add({{"phase", "decode"}});
  Family<Histogram>& step_seconds = histograms(
      "limpet_worker_step_seconds", "Time of a step; phase decode when all its rows decode.");
  Histogram& prefill_step = step_seconds.Add({{"phase", "prefill"}}, kSeconds);
  Histogram& decode_step = step_seconds.Add({{"phase", "decode"}}, kSeconds);
  Histogram& batch_rows =
      histograms("limpet_worker_batch_rows", "Token rows in a step.").Add({}, kRows);
  Family<Gauge>& pages = gauges(
      "limpet_worker_kv_pages",
      "KV pages: free (cached: free, but of use to who has the same prefix), idle, running.");
  Gauge& pages_free = pages.Add({{"state", "free"}});
  Gauge& pages_cached = pages.Add({{"state", "cached"}});
  Gauge& pages_idle = pages.Add({{"state", "idle"}});
  Gauge& pages_running = pages.Add({{"state", "running"}});
  Family<Counter>& moved =
      counters("limpet_worker_kv_moved_bytes_total", "Bytes of KV moved, by direction.");
  Counter& moved_up = moved.Add({{"direction", "to_device"}});
  Counter& moved_down = moved.Add({{"direction", "to_host"}});
  Counter& moved_within = moved.Add({{"direction", "on_device"}});
  Counter& moved_out = moved.Add({{"direction", "to_worker"}});
  Counter& moved_in = moved.Add({{"direction", "from_worker"}});
  Gauge& resident = gauges("limpet_worker_resident_kv_tokens",
                           "Tokens of KV that would be computed again without this worker.")
                        .Add({});
  Counter& moved_to_disk = moved.Add({{"direction", "to_disk"}});
  Counter& moved_from_disk = moved.Add({{"direction", "from_disk"}});
  Family<Gauge>& sessions = gauges(
      "limpet_worker_sessions", "Sessions whose KV is here, by the highest tier that has it.");
  Family<Gauge>& tokens_of = gauges("limpet_worker_kv_tokens", "Tokens of their KV, by tier.");
  Family<Gauge>& tier_pages = gauges(
      "limpet_worker_kv_tier_pages",
      "KV pages below the device, by tier: used, spare (used, but on the device too), free.");
  Family<Counter>& spills = counters(
      "limpet_worker_kv_spills_total", "Sessions whose KV went down to a tier, by outcome.");
  Family<Counter>& restores = counters(
      "limpet_worker_kv_restores_total", "Sessions whose KV came back from a tier, by outcome.");
  Counter& tiers_lost = counters("limpet_worker_kv_tier_evictions_total",
                                 "Sessions whose KV below the device was dropped for room.")
                            .Add({});
  Family<Counter>& evictions =
      counters("limpet_worker_evictions_total", "Idle sessions whose KV was dropped for room.");
  Family<Counter>& reprefilled =
      counters("limpet_worker_reprefilled_tokens_total",
               "Transcript tokens whose KV was computed again, by reason.");
  Family<Counter>& cache =
      counters("limpet_worker_compile_cache_total", "Look-ups of a step's shape, by result.");
  Counter& cache_hit = cache.Add({{"result", "hit"}});
  Counter& cache_miss = cache.Add({{"result", "miss"}});
  Counter& cache_evicted = cache.Add({{"result", "evicted"}});
  Histogram& compile_seconds = histograms("limpet_worker_compile_seconds",
                                          "Time to compile the shapes of a warm-up, or the"
                                          " step that met a new one.")
                                   .Add({}, kSeconds);
  Counter& idle_seconds = counters("limpet_worker_device_idle_seconds_total",
                                   "Time in which the device had nothing to do.")
                              .Add({});
  Counter& preemptions = counters("limpet_worker_preemptions_total",
                                  "Running jobs whose KV was dropped for an older job's.")
                             .Add({});
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  impl_->evictions.Add({{"reason", std::string(name(Reason::evicted))}});
  for (int r = raw(Reason::new_session) + 1; r <= raw(Reason::model_changed); ++r) {
    impl_->reprefilled.Add({{"reason", std::string(name(Reason(r)))}});
  }
}
Metrics::~Metrics() = default;

void Metrics::stepped(bool decode_only, int64_t rows, double seconds) {
  (decode_only ? impl_->decode_step : impl_->prefill_step).Observe(seconds);
  impl_->batch_rows.Observe(static_cast<double>(rows));
}

void Metrics::idled(double seconds) { impl_->idle_seconds.Increment(seconds); }
void Metrics::compiled(double seconds) { impl_->compile_seconds.Observe(seconds); }

void Metrics::set(const Core::Gauges& g, const engine::KvCache& kv,
                  const engine::EngineCounters& c, const TransferLink::Counters& t) {
  Impl& m = *impl_;
  const auto number = [](int64_t n) { return static_cast<double>(n); };
  follow(m.prefilled, number(g.prefilled_tokens));
  follow(m.decoded, number(g.decoded_tokens));
  follow(m.preemptions, number(g.preemptions));
  for (const auto& [reason, count] : g.evicted_sessions) {
    follow(m.evictions.Add({{"reason", std::string(name(reason))}}), number(count));
  }
  for (const auto& [reason, count] : g.reprefilled_tokens) {
    if (reason == Reason::new_session) continue;  // nothing was there to compute again
    follow(m.reprefilled.Add({{"reason", std::string(name(reason))}}), number(count));
  }
  const int64_t used = kv.total_pages() - kv.free_pages();
  m.pages_free.Set(number(kv.free_pages() - kv.cached_pages()));
  m.pages_cached.Set(number(kv.cached_pages()));
  const int64_t idle = std::min(g.idle_pages, used);  // shared pages count for each that shares
  m.pages_idle.Set(number(idle));
  m.pages_running.Set(number(used - idle));
  follow(m.moved_up, number(c.kv_bytes_up));
  follow(m.moved_down, number(c.kv_bytes_down));
  follow(m.moved_within, number(c.kv_bytes_moved));
  follow(m.moved_out, number(t.bytes_out));
  follow(m.moved_in, number(t.bytes_in));
  m.resident.Set(number(g.resident_kv_tokens));
  follow(m.cache_hit, number(c.compile_hits));
  follow(m.cache_miss, number(c.compiles));
  follow(m.cache_evicted, number(c.compile_evictions));
}

void Metrics::set_tiers(const Core::Gauges& g, const TierOptions& sizes,
                        const TierMover::Counters& moved) {
  Impl& m = *impl_;
  const auto number = [](int64_t n) { return static_cast<double>(n); };
  m.sessions.Add({{"tier", "device"}}).Set(number(g.device_sessions));
  m.tokens_of.Add({{"tier", "device"}}).Set(number(g.device_tokens));
  const Tiers::Gauges& t = g.tiers;
  const int64_t pages[] = {sizes.host_pages, sizes.disk_pages};
  const char* const names[] = {"host", "disk"};
  for (size_t i = 0; i < 2; ++i) {
    const std::string tier = names[i];
    m.sessions.Add({{"tier", tier}}).Set(number(t.sessions[i]));
    m.tokens_of.Add({{"tier", tier}}).Set(number(t.tokens[i]));
    const int64_t spare = i == 0 ? t.spare_pages : 0;
    m.tier_pages.Add({{"tier", tier}, {"state", "used"}}).Set(number(t.pages_used[i] - spare));
    m.tier_pages.Add({{"tier", tier}, {"state", "spare"}}).Set(number(spare));
    m.tier_pages.Add({{"tier", tier}, {"state", "free"}}).Set(number(pages[i] - t.pages_used[i]));
    const auto spills = [&](const char* outcome, int64_t n) {
      follow(m.spills.Add({{"tier", tier}, {"outcome", outcome}}), number(n));
    };
    spills("done", i == 0 ? t.spilled : t.demoted);
    spills("failed", i == 0 ? t.spill_failed : t.demote_failed);
    const auto restores = [&](const char* outcome, int64_t n) {
      follow(m.restores.Add({{"tier", tier}, {"outcome", outcome}}), number(n));
    };
    restores("restored", t.restored[i]);
    restores("damaged", t.damaged[i]);
  }
  follow(m.tiers_lost, number(t.gone));
  follow(m.moved_to_disk, number(moved.demoted));
  follow(m.moved_from_disk, number(moved.restored_disk));
}

std::string Metrics::text() const {
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace limpet::worker
