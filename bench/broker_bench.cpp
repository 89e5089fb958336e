#include "bench/broker_bench.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "bench/broker_scene.h"

namespace limpet::bench {
namespace {

struct Options {
  std::string mode = "jobs";
  int64_t jobs = 100000, tokens = 8, sessions = 1000, window = 1024;
  int64_t streams = 256, length = 4000;
  double rate = 100000;
  bool keys = false;
};

void print(const nlohmann::json& line) { std::printf("%s\n", line.dump().c_str()); }

// Jobs over sessions in a random order; every call of a run continues it.
std::function<LoadClient::Job(int64_t)> random_jobs(const Options& o, int64_t first) {
  auto rng = std::make_shared<std::mt19937_64>(7);
  const auto sessions = static_cast<uint64_t>(o.sessions);
  return [=](int64_t i) -> LoadClient::Job {
    const std::string session =
        sessions == 0 ? "" : "session-" + std::to_string((*rng)() % sessions);
    return {job_name(first + i), session};
  };
}

std::function<LoadClient::Job(int64_t)> one_each(int64_t first) {
  return [=](int64_t i) -> LoadClient::Job {
    return {job_name(first + i), "session-" + std::to_string(i)};
  };
}

void jobs(const Options& o) {
  BrokerProcess broker({}, o.keys);
  WorkerDouble worker(broker.backend(), {.tokens = o.tokens}, broker.worker());
  LoadClient client(broker.frontend(), broker.client());
  client.run(2000, o.window, o.tokens, random_jobs(o, int64_t{1} << 40));  // warm
  const double cpu = broker.cpu_seconds();
  const int64_t start = now_ns();
  client.run(o.jobs, o.window, o.tokens, random_jobs(o, 0));
  const double seconds = static_cast<double>(now_ns() - start) * 1e-9;
  print({{"bench", "broker"}, {"mode", "jobs"}, {"jobs", o.jobs}, {"tokens_per_job", o.tokens},
         {"sessions", o.sessions}, {"window", o.window}, {"keys", o.keys}, {"seconds", seconds},
         {"jobs_per_second", static_cast<double>(o.jobs) / seconds},
         {"broker_cpu_us_per_job",
          (broker.cpu_seconds() - cpu) / static_cast<double>(o.jobs) * 1e6},
         {"stored_bytes", broker.stored_bytes()}});
}

void stream(const Options& o) {
  BrokerProcess broker;
  WorkerDouble worker(broker.backend(), {.tokens = o.length, .start_when = o.streams});
  LoadClient client(broker.frontend());
  int64_t start = 0;
  client.on_tokens = [&](const Tokens&) {
    if (start == 0) start = now_ns();
  };
  client.run(o.streams, o.streams, o.length, one_each(0));
  const double seconds = static_cast<double>(now_ns() - start) * 1e-9;
  const auto tokens = static_cast<double>(o.streams * o.length);
  print({{"bench", "broker"}, {"mode", "stream"}, {"streams", o.streams},
         {"tokens_per_stream", o.length}, {"seconds", seconds},
         {"tokens_per_second", tokens / seconds},
         {"broker_cpu_us_per_token", broker.cpu_seconds() / tokens * 1e6},
         {"stored_bytes", broker.stored_bytes()}});
}

void latency(const Options& o) {
  std::vector<std::atomic<int64_t>> sent(static_cast<size_t>(o.length));
  BrokerProcess broker;
  WorkerDouble worker(broker.backend(),
                      {.tokens = o.length,
                       .steps_per_second = o.rate / static_cast<double>(o.streams),
                       .start_when = o.streams,
                       .sent_ns = &sent});
  LoadClient client(broker.frontend());
  std::vector<double> added;
  int64_t start = 0;
  client.on_tokens = [&](const Tokens& t) {
    const int64_t now = now_ns();
    if (start == 0) start = now;
    for (size_t i = 0; i < t.ids.size(); ++i) {
      const auto index = static_cast<size_t>(t.first_index) + i;
      added.push_back(static_cast<double>(now - sent[index]) * 1e-6);
    }
  };
  client.run(o.streams, o.streams, o.length, one_each(0));
  const double seconds = static_cast<double>(now_ns() - start) * 1e-9;
  std::sort(added.begin(), added.end());
  const auto at = [&](double part) {
    return added[static_cast<size_t>(part * static_cast<double>(added.size() - 1))];
  };
  print({{"bench", "broker"}, {"mode", "latency"}, {"streams", o.streams},
         {"tokens_per_second", static_cast<double>(added.size()) / seconds},
         {"added_ms_p50", at(0.5)}, {"added_ms_p99", at(0.99)}, {"added_ms_p999", at(0.999)},
         {"added_ms_max", at(1)}});
}

void memory(const Options& o) {
  constexpr int64_t kSessions = 100000, kQueued = 20000;
  BrokerProcess broker;
  WorkerDouble worker(broker.backend(), {.tokens = o.tokens});
  LoadClient client(broker.frontend());
  client.run(kSessions, o.window, o.tokens, one_each(0));
  const int64_t known = broker.resident_bytes();
  worker.hold();
  std::this_thread::sleep_for(std::chrono::milliseconds(800));  // some heartbeats
  client.enqueue(kQueued, o.tokens, one_each(int64_t{1} << 40));
  print({{"bench", "broker"}, {"mode", "memory"}, {"sessions", kSessions}, {"queued", kQueued},
         {"resident_bytes_sessions", known}, {"resident_bytes", broker.resident_bytes()},
         {"peak_resident_bytes", broker.peak_resident_bytes()}});
}

// The broker's processor time per job once so many sessions are known, after equally many jobs.
double cost_per_job(const Options& o, int64_t sessions) {
  constexpr int64_t kWarm = 100000;
  Options each = o;
  each.sessions = sessions;
  BrokerProcess broker;
  WorkerDouble worker(broker.backend(), {.tokens = o.tokens});
  LoadClient client(broker.frontend());
  client.run(kWarm, o.window, o.tokens, [&](int64_t i) -> LoadClient::Job {
    return {job_name(i), "session-" + std::to_string(i % sessions)};
  });
  const double cpu = broker.cpu_seconds();
  client.run(o.jobs, o.window, o.tokens, random_jobs(each, int64_t{1} << 40));
  return (broker.cpu_seconds() - cpu) / static_cast<double>(o.jobs) * 1e6;
}

void scale(const Options& o) {
  const double few = cost_per_job(o, 1000), many = cost_per_job(o, 100000);
  print({{"bench", "broker"}, {"mode", "scale"}, {"jobs", o.jobs},
         {"broker_cpu_us_per_job_1000_sessions", few},
         {"broker_cpu_us_per_job_100000_sessions", many}, {"ratio", many / few}});
}

}  // namespace

int broker_bench(int argc, char** argv) {
  Options o;
  CLI::App app{
      "A real limpet-broker with a worker double that answers at once, and a client: all on this\n"
      "machine. One JSON line per measurement."};
  app.name("limpet-bench broker");
  app.add_option("--mode", o.mode, "jobs, stream, latency, memory, scale, or all")
      ->capture_default_str()
      ->check(CLI::IsMember({"jobs", "stream", "latency", "memory", "scale", "all"}));
  app.add_option("--jobs", o.jobs, "Jobs to measure")->capture_default_str();
  app.add_option("--tokens", o.tokens, "Tokens of a short job")->capture_default_str();
  app.add_option("--sessions", o.sessions, "Sessions of the jobs; 0: none")->capture_default_str();
  app.add_option("--window", o.window, "Jobs on their way at a time")->capture_default_str();
  app.add_option("--streams", o.streams, "Long streams at a time")->capture_default_str();
  app.add_option("--length", o.length, "Tokens of a long stream")->capture_default_str();
  app.add_flag("--keys", o.keys, "With keys (CURVE), in mode jobs");
  app.add_option("--rate", o.rate, "Tokens per second in mode latency")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const bool all = o.mode == "all";
  if (all || o.mode == "jobs") jobs(o);
  if (all || o.mode == "stream") stream(o);
  if (all || o.mode == "latency") latency(o);
  if (all || o.mode == "memory") memory(o);
  if (all || o.mode == "scale") scale(o);
  return 0;
}

}  // namespace limpet::bench
