#include "bench/handover_bench.h"

#include <signal.h>
#include <zmq.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>

#include "bench/broker_scene.h"
#include "bench/worker_program.h"
#include "clients/cpp/client.h"

namespace limpet::bench {
namespace {

using std::chrono::milliseconds;

struct Options {
  std::string model = "models/limpet-tiny";
  std::string dtype = "bf16";
  int64_t session_tokens = 2000, output_tokens = 400, load = 4, rounds = 5;
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
  // What a step takes: tokens may come several at a time, so the time between two says little.
  double step(size_t from, size_t to) const {
    return static_cast<double>(at_ns[to - 1] - at_ns[from]) / 1e6 /
           static_cast<double>(to - 1 - from);
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

// KV of one token, all layers, as workers send it (bf16).
int64_t kv_bytes_per_token(const Options& o) {
  std::ifstream in(o.model + "/config.json");
  const auto config = nlohmann::json::parse(in);
  const int64_t heads = config.at("num_attention_heads");
  const int64_t kv_heads = config.value("num_key_value_heads", heads);
  const int64_t hidden = config.at("hidden_size");
  const int64_t head_dim = config.value("head_dim", hidden / heads);
  const int64_t layers = config.at("num_hidden_layers");
  return layers * 2 * kv_heads * head_dim * 2;
}

// What it takes to bring so many bytes over the loopback from one ZeroMQ socket to another, page by
// page, when there is nothing else to do: the least that a transfer takes.
double plain_transfer_ms(int64_t bytes, int64_t page) {
  void* context = zmq_ctx_new();
  void* to = zmq_socket(context, ZMQ_ROUTER);
  void* from = zmq_socket(context, ZMQ_DEALER);
  char endpoint[256];
  size_t size = sizeof endpoint;
  zmq_bind(to, "tcp://127.0.0.1:*");
  zmq_getsockopt(to, ZMQ_LAST_ENDPOINT, endpoint, &size);
  zmq_connect(from, endpoint);
  const std::string frame(static_cast<size_t>(page), 'x');
  const int64_t frames = (bytes + page - 1) / page;
  std::string into(frame.size(), '\0');
  const auto receive = [&] {
    zmq_recv(to, into.data(), into.size(), 0);  // who says it
    zmq_recv(to, into.data(), into.size(), 0);
  };
  zmq_send(from, frame.data(), frame.size(), 0);
  receive();  // the connection is there
  const int64_t begin = now_ns();
  std::thread sender([&] {
    for (int64_t i = 0; i < frames; ++i) zmq_send(from, frame.data(), frame.size(), 0);
  });
  for (int64_t i = 0; i < frames; ++i) receive();
  const double ms = static_cast<double>(now_ns() - begin) / 1e6;
  sender.join();
  zmq_close(from);
  zmq_close(to);
  zmq_ctx_term(context);
  return ms;
}

struct Measured {
  double plain_step = 0, longest_gap = 0, transfer = 0;  // milliseconds
  double bound() const { return 2 * plain_step + transfer; }
};

// `how`: handover, reprefill (it leaves, and nobody takes its KV), kill.
Measured measure(const std::string& how, const Options& o) {
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
  const int64_t tokens = o.session_tokens + static_cast<int64_t>(before);
  const int64_t row = kv_bytes_per_token(o);
  const Measured m{watch.step(before / 4, before), watch.longest(before, watch.at_ns.size()),
                   plain_transfer_ms(tokens * row, 16 * row)};
  nlohmann::ordered_json line = {
      {"bench", "handover"},
      {"how", how},
      {"session_tokens", tokens},
      {"load_jobs", o.load},
      {"residency", name(last.residency)},
      {"prefilled_tokens", last.prefilled_tokens},
      {"plain_step_ms", m.plain_step},
      {"longest_plain_gap_ms", watch.longest(before / 4, before)},
      {"longest_gap_ms", m.longest_gap}};
  if (how == "handover") line["plain_transfer_ms"] = m.transfer;
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
  return m;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// The median of each figure over the rounds; for a hand-over, whether its wait is within two plain
// steps and the transfer.
void summarize(const std::string& how, const std::vector<Measured>& rounds) {
  const auto middle = [&](auto figure) {
    std::vector<double> values;
    for (const Measured& m : rounds) values.push_back(figure(m));
    return median(std::move(values));
  };
  const double longest = middle([](const Measured& m) { return m.longest_gap; });
  nlohmann::ordered_json line = {{"bench", "handover"},
                                 {"how", how},
                                 {"median_of", rounds.size()},
                                 {"plain_step_ms", middle([](auto& m) { return m.plain_step; })},
                                 {"longest_gap_ms", longest}};
  if (how == "handover") {
    const double bound = middle([](const Measured& m) { return m.bound(); });
    line["two_plain_steps_and_transfer_ms"] = bound;
    line["within"] = longest <= bound;
  }
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
  app.add_option("--rounds", o.rounds, "of each way, whose medians are told at the end")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  std::map<std::string, std::vector<Measured>> all;
  for (int64_t round = 0; round < o.rounds; ++round) {
    for (const char* how : {"handover", "reprefill", "kill"}) {
      all[how].push_back(measure(how, o));
    }
  }
  for (const auto& [how, rounds] : all) summarize(how, rounds);
  return 0;
}

}  // namespace limpet::bench
