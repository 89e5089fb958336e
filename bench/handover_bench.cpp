#include "bench/handover_bench.h"

#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "bench/broker_scene.h"
#include "bench/worker_program.h"
#include "clients/cpp/client.h"

namespace limpet::bench {
namespace {

using std::chrono::milliseconds;

struct Options {
  std::string model = "models/limpet-tiny";
  std::string dtype = "bf16";
  int64_t session_tokens = 2000, output_tokens = 400, load = 4;
};

// When the tokens of the followed job came, and what each of its attempts found.
struct Watch {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int64_t> at_ns;  // by token index
  std::vector<Started> starts;
  bool over = false, finished = false;

  void see(const client::Event& e) {
    const std::lock_guard lock(mutex);
    if (const auto* s = std::get_if<Started>(&e)) starts.push_back(*s);
    if (const auto* t = std::get_if<Tokens>(&e)) {
      at_ns.resize(at_ns.size() + t->ids.size(), now_ns());
    }
    over = over || client::is_last(e);
    finished = finished || std::holds_alternative<Finished>(e);
    changed.notify_all();
  }
  void wait(const char* what, const std::function<bool()>& condition) {
    std::unique_lock lock(mutex);
    if (!changed.wait_for(lock, std::chrono::seconds(60), condition)) {
      throw std::runtime_error(std::string("waited in vain for ") + what);
    }
  }
  // The longest wait for a token in [from, to), in milliseconds.
  double longest(size_t from, size_t to) const {
    int64_t most = 0;
    for (size_t i = std::max<size_t>(from, 1); i < std::min(to, at_ns.size()); ++i) {
      most = std::max(most, at_ns[i] - at_ns[i - 1]);
    }
    return static_cast<double>(most) / 1e6;
  }
  double median(size_t from, size_t to) const {
    std::vector<int64_t> gaps;
    for (size_t i = from + 1; i < to; ++i) gaps.push_back(at_ns[i] - at_ns[i - 1]);
    std::ranges::nth_element(gaps, gaps.begin() + std::ssize(gaps) / 2);
    return static_cast<double>(gaps[gaps.size() / 2]) / 1e6;
  }
};

JobSpec spec_of(const std::string& id, int64_t prompt, int64_t output) {
  JobSpec s;
  s.job_id = id;
  s.session = "session-" + id;
  s.kind = InputKind::tokens;
  for (int64_t i = 0; i < prompt; ++i) {
    s.tokens.push_back(static_cast<Token>(3 + (i * 37 + std::ssize(id)) % 200));
  }
  s.max_tokens = static_cast<int32_t>(output);
  s.ignore_eos = true;
  return s;
}

// `how`: handover, reprefill (it leaves, and nobody takes its KV), kill.
void measure(const std::string& how, const Options& o) {
  BrokerProcess broker;
  std::vector<std::string> flags = {"--kv-tokens", "32768", "--max-jobs", "64"};
  if (how == "reprefill") flags.insert(flags.end(), {"--transfer", "", "--grace-ms", "0"});
  std::map<std::string, std::unique_ptr<WorkerProgram>> workers;
  for (const char* name : {"one", "two"}) {
    workers[name] =
        std::make_unique<WorkerProgram>(name, o.model, o.dtype, broker.backend(), flags);
  }
  client::Client client({.endpoint = broker.frontend()});
  wait_for_workers(client, workers.size());
  Watch watch;
  std::vector<client::Job> load;
  for (int64_t i = 0; i < o.load; ++i) {
    load.push_back(client.submit(spec_of("load-" + std::to_string(i), 64, 1500),
                                 [](const client::Event&) {}));
  }
  const client::Job job =
      client.submit(spec_of("watched", o.session_tokens, o.output_tokens),
                    [&](const client::Event& e) { watch.see(e); });
  const auto half = static_cast<size_t>(o.output_tokens / 2);
  watch.wait("half of the tokens", [&] { return watch.at_ns.size() >= half || watch.over; });
  size_t before = 0;
  std::string home;
  {
    const std::lock_guard lock(watch.mutex);
    if (watch.over) throw std::runtime_error("the job ended before its worker left");
    before = watch.at_ns.size();
    home = watch.starts.front().worker;
  }
  workers.at(home)->signal(how == "kill" ? SIGKILL : SIGTERM);
  watch.wait("the job's end", [&] { return watch.over; });
  const std::lock_guard lock(watch.mutex);
  if (!watch.finished) throw std::runtime_error("the job did not finish");
  const Started& last = watch.starts.back();
  const nlohmann::ordered_json line = {
      {"bench", "handover"},
      {"how", how},
      {"session_tokens", o.session_tokens + static_cast<int64_t>(before)},
      {"load_jobs", o.load},
      {"residency", name(last.residency)},
      {"prefilled_tokens", last.prefilled_tokens},
      {"plain_gap_ms", watch.median(before / 4, before)},
      {"longest_plain_gap_ms", watch.longest(before / 4, before)},
      {"longest_gap_ms", watch.longest(before, watch.at_ns.size())}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

}  // namespace

int handover_bench(int argc, char** argv) {
  Options o;
  CLI::App app("A session's worker leaves in mid-stream: the client's longest wait for a token when"
               " its KV is handed over, when it is prefilled again, and when the worker is killed");
  app.add_option("--model", o.model)->capture_default_str();
  app.add_option("--dtype", o.dtype)->capture_default_str();
  app.add_option("--session-tokens", o.session_tokens, "prompt of the session")
      ->capture_default_str();
  app.add_option("--output-tokens", o.output_tokens, "its worker leaves after half of them")
      ->capture_default_str()
      ->check(CLI::Range(8, 100000));
  app.add_option("--load", o.load, "other jobs that decode meanwhile")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  for (const char* how : {"handover", "reprefill", "kill"}) measure(how, o);
  return 0;
}

}  // namespace limpet::bench
