#include "bench/fairness_bench.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>
#include <utility>

#include "bench/broker_scene.h"
#include "bench/worker_program.h"
#include "clients/cpp/client.h"

namespace limpet::bench {
namespace {

using std::chrono::milliseconds;

struct Options {
  std::string model = "models/limpet-tiny";
  std::string dtype = "bf16";
  int64_t flood = 20000, flood_prompt = 32, flood_output = 64;
  int64_t probes = 60, every_ms = 1000, idle_every_ms = 250, prompt = 1024, output = 16;
  int64_t token_budget = 256, prefill_chunk = 128, threads = 2;  // of the worker: its defaults
};

JobSpec spec_of(const std::string& id, int64_t prompt, int64_t output) {
  JobSpec s;
  s.job_id = id;
  s.kind = InputKind::tokens;
  // No two begin alike: what is measured is no shared prefix.
  auto mixed = std::hash<std::string>{}(id);
  for (int64_t i = 0; i < prompt; ++i) {
    mixed = mixed * 6364136223846793005ull + 1442695040888963407ull;
    s.tokens.push_back(static_cast<Token>(3 + (mixed >> 33) % 200));
  }
  s.max_tokens = static_cast<int32_t>(output);
  s.ignore_eos = true;
  return s;
}

// Submits the flood and waits until the broker has all of it.
class Flood {
 public:
  Flood(client::Client& client, const Options& o) {
    std::unique_lock lock(mutex_);
    for (int64_t i = 0; i < o.flood; ++i) {
      jobs_.push_back(client.submit(
          spec_of("flood-" + std::to_string(i), o.flood_prompt, o.flood_output),
          [this](const client::Event& e) { see(e); }));
    }
    if (!changed_.wait_for(lock, std::chrono::seconds(60),
                           [&] { return accepted_ >= o.flood; })) {
      throw std::runtime_error("the flood is not accepted");
    }
  }
  int64_t finished() const { return finished_; }

 private:
  void see(const client::Event& e) {
    if (std::holds_alternative<Finished>(e)) ++finished_;
    if (!std::holds_alternative<Accepted>(e)) return;
    const std::lock_guard lock(mutex_);
    ++accepted_;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<client::Job> jobs_;
  int64_t accepted_ = 0;
  std::atomic<int64_t> finished_{0};
};

// Milliseconds from the submission to the first token, and its parts as the client sees them; each
// sorted by itself.
struct Probed {
  std::vector<double> first_token;
  std::vector<double> accepted;  // to the broker, its commit, back
  std::vector<double> waited;    // until it has started: the way there, the worker's step in flight
  std::vector<double> computed;  // from there: its prompt's steps, of others what runs beside it
  std::vector<double> queue;     // of `waited`, in the broker's queue
  void sort() {
    for (auto* part : {&first_token, &accepted, &waited, &computed, &queue}) {
      std::ranges::sort(*part);
    }
  }
};

void probe_one(client::Client& client, const JobSpec& spec, Probed& took) {
  int64_t last = now_ns();
  const int64_t start = last;
  const auto lap = [&] {
    const int64_t now = now_ns();
    return static_cast<double>(now - std::exchange(last, now)) / 1e6;
  };
  client::Job job = client.submit(spec);
  bool told = false;
  while (!job.over()) {
    const auto event = job.next(milliseconds(30000));
    if (!event) throw std::runtime_error("a probe has no answer within 30 s");
    if (std::holds_alternative<Accepted>(*event)) took.accepted.push_back(lap());
    if (std::holds_alternative<Started>(*event)) took.waited.push_back(lap());
    if (!told && std::holds_alternative<Tokens>(*event)) {
      told = true;
      took.computed.push_back(lap());
      took.first_token.push_back(static_cast<double>(last - start) / 1e6);
    }
    if (const auto* end = std::get_if<Finished>(&*event)) {
      took.queue.push_back(end->timings.queue * 1e3);
    }
  }
  if (!told) throw std::runtime_error("a probe came to nothing");
}

// One job each so many milliseconds.
Probed probe(client::Client& client, const Options& o, const std::string& name) {
  Probed took;
  auto next = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < o.probes; ++i) {
    std::this_thread::sleep_until(next);
    next += milliseconds(o.every_ms);
    probe_one(client, spec_of(name + std::to_string(i), o.prompt, o.output), took);
  }
  took.sort();
  return took;
}

double at(const std::vector<double>& sorted, double part) {
  const auto rank = static_cast<size_t>(part * static_cast<double>(sorted.size() - 1) + 0.5);
  return sorted[rank];
}

nlohmann::ordered_json told(const Probed& p) {
  nlohmann::ordered_json line;
  const auto add = [&](const char* name, const std::vector<double>& part) {
    line[name] = {{"p50", at(part, 0.5)}, {"p99", at(part, 0.99)}, {"max", part.back()}};
  };
  add("first_token", p.first_token);
  add("accepted", p.accepted);
  add("waited", p.waited);
  add("computed", p.computed);
  add("queue", p.queue);
  line["all"] = p.first_token;
  return line;
}

void measure(const Options& o) {
  BrokerProcess broker({}, true);
  const auto as = [&](const std::string& who) {
    return client::Options{.endpoint = broker.frontend(),
                           .key_file = broker.let_in(who),
                           .server_public_key = broker.server_key_file()};
  };
  const std::string worker_key = broker.let_in("worker");
  WorkerProgram worker("one", o.model, o.dtype, broker.backend(),
                       {"--kv-tokens", "32768", "--token-budget", std::to_string(o.token_budget),
                        "--prefill-chunk", std::to_string(o.prefill_chunk), "--key", worker_key,
                        "--server-public-key", broker.server_key_file()},
                       o.threads);
  client::Client quiet(as("client quiet")), loud(as("client loud"));
  wait_for_workers(quiet, 1);
  Options warm = o;
  warm.probes = 3;
  warm.every_ms = 0;
  probe(quiet, warm, "warm-");
  Options alone = o;
  alone.every_ms = o.idle_every_ms;
  const Probed idle = probe(quiet, alone, "idle-");
  const Flood flood(loud, o);
  const int64_t before = flood.finished(), start = now_ns();
  const Probed loaded = probe(quiet, o, "loaded-");
  const double seconds = static_cast<double>(now_ns() - start) / 1e9;
  const int64_t done = flood.finished();
  if (done >= o.flood) throw std::runtime_error("the flood was over too soon: more --flood-jobs");
  const nlohmann::ordered_json line = {
      {"bench", "fairness"},
      {"flood_jobs", o.flood},
      {"flood_jobs_per_second", static_cast<double>(done - before) / seconds},
      {"probes", o.probes},
      {"prompt_tokens", o.prompt},
      {"token_budget", o.token_budget},
      {"prefill_chunk", o.prefill_chunk},
      {"threads", o.threads},
      {"idle_ms", told(idle)},
      {"loaded_ms", told(loaded)},
      {"ratio_p50", at(loaded.first_token, 0.5) / at(idle.first_token, 0.5)},
      {"ratio_p99", at(loaded.first_token, 0.99) / at(idle.first_token, 0.99)}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

}  // namespace

int fairness_bench(int argc, char** argv) {
  Options o;
  CLI::App app(
      "One tenant has many jobs queued, another of the same weight submits one each second: its\n"
      "time to first token, against that on the idle system. Real broker and worker, with keys.");
  app.name("limpet-bench fairness");
  app.add_option("--model", o.model)->capture_default_str();
  app.add_option("--dtype", o.dtype)->capture_default_str();
  app.add_option("--flood-jobs", o.flood, "queued by the one; they must outlast the probes")
      ->capture_default_str();
  app.add_option("--flood-prompt", o.flood_prompt, "tokens")->capture_default_str();
  app.add_option("--flood-output", o.flood_output, "tokens")->capture_default_str();
  app.add_option("--probes", o.probes, "jobs of the other, in either state")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  app.add_option("--every-ms", o.every_ms, "between them, under load")->capture_default_str();
  app.add_option("--idle-every-ms", o.idle_every_ms, "between them, on the idle system")
      ->capture_default_str();
  app.add_option("--prompt", o.prompt, "tokens of a probe")->capture_default_str();
  app.add_option("--output", o.output, "tokens of a probe")->capture_default_str();
  app.add_option("--token-budget", o.token_budget, "of the worker")->capture_default_str();
  app.add_option("--prefill-chunk", o.prefill_chunk, "of the worker")->capture_default_str();
  app.add_option("--threads", o.threads, "of the worker")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  measure(o);
  return 0;
}

}  // namespace limpet::bench
