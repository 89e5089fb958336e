// Continuous batching: sessions of random lengths whose turns come and go on a worker's scheduler,
// and a long prompt that arrives while others decode.
#include <algorithm>
#include <cstdio>
#include <deque>
#include <nlohmann/json.hpp>
#include <random>

#include "bench/bench_model.h"
#include "bench/decode_loop.h"
#include "bench/serve_scene.h"
#include "bench/worker_bench.h"

namespace limpet::bench {
namespace {

using engine::Engine;

struct ServeOptions : Options {
  int64_t sessions = 256, shortest = 200, longest = 2000, output = 128, prompt = 8192, beside = 0;
  int64_t budget = 256, kv_tokens = 0, host_bytes = 0;
  bool together = false;
};

void add_serve_options(CLI::App& app, ServeOptions& o) {
  add_options(app, o);
  app.add_option("--sessions", o.sessions, "sessions")->capture_default_str();
  app.add_option("--shortest", o.shortest, "tokens of the shortest first turn")
      ->capture_default_str();
  app.add_option("--longest", o.longest, "and of the longest")->capture_default_str();
  app.add_option("--output", o.output, "tokens that a later turn draws")->capture_default_str();
  app.add_option("--prompt", o.prompt, "tokens of the prompt that arrives late")
      ->capture_default_str();
  app.add_option("--beside", o.beside, "jobs that decode meanwhile; 0: all but one of --batch")
      ->capture_default_str();
  app.add_option("--budget", o.budget, "token rows of a step")->capture_default_str();
  app.add_option("--kv-tokens", o.kv_tokens, "of the pool; 0: as many as are needed")
      ->capture_default_str();
  app.add_flag("--together", o.together, "prompts in one step with those that decode");
  app.add_option("--host-bytes", o.host_bytes, "host memory below the pool")
      ->capture_default_str();
}

// So many that none of them ends while the long prompt is prefilled.
int64_t jobs_beside_draw(const ServeOptions& o) {
  return o.prompt / std::max<int64_t>(o.chunk, 1) + 200;
}

std::unique_ptr<Engine> open_for(const ServeOptions& o, const std::vector<int64_t>& lengths) {
  engine::EngineOptions e;
  e.model_dir = model_folder(o.shapes);
  e.device = o.device;
  e.precision = o.dtype == "f32" ? engine::Precision::f32 : engine::Precision::bf16;
  e.threads = o.threads;
  e.max_rows = o.budget;
  e.max_sequences = std::min(o.batch, o.budget);
  e.share_prefixes = false;
  e.random_weights = 1;
  e.timed = o.timed;
  e.timed_choices = o.timed_choices;
  e.choices_file = o.choices_file;
  int64_t tokens = o.prompt + o.steps * 2 * o.batch;  // later turns draw the half of that
  tokens += o.beside * (jobs_beside_draw(o) + o.fresh);
  for (const int64_t n : lengths) tokens += n + 32;
  e.kv_pages = o.kv_tokens > 0 ? o.kv_tokens / 16 : tokens / 16 + 64;
  return Engine::open(e);
}

// The turns of the sessions, in a random order that begins again.
class Turns {
 public:
  explicit Turns(int64_t sessions) {
    for (int64_t s = 1; s <= sessions; ++s) order_.push_back(static_cast<uint64_t>(s));
    std::shuffle(order_.begin(), order_.end(), std::mt19937_64(11));
  }
  uint64_t next() {
    const uint64_t s = order_.front();
    order_.pop_front();
    return s;
  }
  void back(uint64_t session) { order_.push_back(session); }
  bool empty() const { return order_.empty(); }

 private:
  std::deque<uint64_t> order_;
};

// First turns, as fast as they go.
double fill(Server& server, const ServeOptions& o, const std::vector<int64_t>& lengths) {
  const auto start = Clock::now();
  size_t next = 0;
  while (next < lengths.size() || server.in_flight() > 0) {
    while (next < lengths.size() && server.in_flight() < o.batch) {
      server.submit(next + 1, lengths[next], 1);
      ++next;
    }
    server.turn();
    server.take_ended();
  }
  return seconds_since(start);
}

struct Fractions {
  std::vector<double> decode, all;
  int64_t decode_steps = 0, steps = 0, decode_rows = 0, rows = 0;
  double seconds = 0;
};

// Later turns, `o.batch` at a time: when one ends, another session's comes.
Fractions serve(Server& server, Engine& e, const ServeOptions& o, Turns& turns, double bandwidth) {
  Fractions f;
  std::mt19937_64 rng(3);
  const auto weights = static_cast<double>(weight_bytes(e, o));
  int64_t warm = o.steps / 4;
  while (f.steps < o.steps) {
    while (!turns.empty() && server.in_flight() < o.batch) {
      // From half of --output to half as much again.
      const int64_t output = o.output / 2 + static_cast<int64_t>(rng() % 64) * o.output / 64;
      server.submit(turns.next(), o.fresh, static_cast<int32_t>(std::max<int64_t>(output, 1)));
    }
    const auto step = server.turn();
    for (const Server::Ended& ended : server.take_ended()) turns.back(ended.session);
    if (!step || warm-- > 0) continue;
    const double bytes = weights + static_cast<double>(kv_bytes(e, step->kv_tokens));
    const double fraction = bytes / bandwidth / step->seconds;
    ++f.steps;
    f.rows += step->rows;
    f.seconds += step->seconds;
    f.all.push_back(fraction);
    if (!step->decode_only) continue;
    ++f.decode_steps;
    f.decode_rows += step->rows;
    f.decode.push_back(fraction);
  }
  while (server.in_flight() > 0) {
    server.turn();
    for (const Server::Ended& ended : server.take_ended()) turns.back(ended.session);
  }
  return f;
}

// The longest wait for a token of jobs that decode, before and while a long prompt arrives.
void tell_gap(nlohmann::json& j, Server& server, const ServeOptions& o, Turns& turns) {
  const auto many = static_cast<int32_t>(jobs_beside_draw(o));
  for (int64_t i = 0; i < o.beside && !turns.empty(); ++i) {
    server.submit(turns.next(), o.fresh, many);
  }
  std::vector<double> steady;
  int64_t decoding = 0;
  while (decoding < 100) {
    const auto step = server.turn();
    if (!step || !step->decode_only) continue;
    if (++decoding > 50) steady.push_back(step->seconds);
  }
  const uint64_t prompt = server.submit(1u << 20, o.prompt, 4);
  const auto start = Clock::now();
  double longest = 0;
  std::vector<double> gaps;
  int64_t steps = 0;
  while (!server.started(prompt)) {
    server.turn();
    ++steps;
    for (const auto& [job, gap] : server.gaps()) {
      if (job == prompt) continue;
      longest = std::max(longest, gap);
      gaps.push_back(gap);
    }
  }
  j["prompt_tokens"] = o.prompt;
  j["beside"] = o.beside;
  j["prompt_steps"] = steps;
  j["prompt_seconds"] = seconds_since(start);
  j["steady_gap_seconds"] = median(steady);
  j["median_gap_seconds"] = median(gaps);
  j["longest_gap_seconds"] = longest;
  j["longest_gap_over_steady"] = longest / median(steady);
  while (server.in_flight() > 0) server.turn();
}

std::vector<int64_t> lengths_of(const ServeOptions& o) {
  std::mt19937_64 rng(1);
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < o.sessions; ++s) {
    lengths.push_back(o.shortest + static_cast<int64_t>(
                                       rng() % static_cast<uint64_t>(o.longest - o.shortest + 1)));
  }
  return lengths;
}

}  // namespace

int serve_bench(int argc, char** argv) {
  ServeOptions o;
  o.batch = 64;
  o.fresh = 64;
  o.steps = 400;
  CLI::App app{"--sessions sessions of random lengths, --batch of their turns at a time as they"
               "\narrive: decode steps against the read bandwidth; and a prompt of --prompt tokens"
               "\nthat arrives while --beside others decode"};
  add_serve_options(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  if (o.shortest < 1 || o.longest < o.shortest || o.batch < 1 || o.sessions < o.batch) {
    throw std::runtime_error("--shortest must be at least 1 and at most --longest, and there must"
                             " be --batch sessions or more");
  }
  if (o.beside <= 0) o.beside = o.batch - 1;
  const auto lengths = lengths_of(o);
  auto e = open_for(o, lengths);
  const double bandwidth = measured_read_bandwidth(*e);
  // As a worker does for all that may come.
  e->warm(o.budget, std::max(o.longest + 4 * (o.fresh + o.output), o.prompt + o.fresh));
  Server server(*e, {static_cast<int32_t>(o.batch), static_cast<int32_t>(o.budget),
                     static_cast<int32_t>(o.chunk),
                     !o.together && e->info().runs_ahead,
                     {.host_bytes = o.host_bytes, .disk_bytes = 0, .disk_folder = {},
                      .least_tokens = 1}});
  auto j = describe("serve", *e, o);
  const auto before = e->counters();
  const double filled = fill(server, o, lengths);
  Turns turns(o.sessions);
  const Fractions f = serve(server, *e, o, turns, bandwidth);
  j["sessions"] = o.sessions;
  j["jobs"] = o.batch;
  j["fill_seconds"] = filled;
  j["steps"] = f.steps;
  j["decode_steps"] = f.decode_steps;
  const int64_t decode_steps = std::max<int64_t>(f.decode_steps, 1);
  j["rows_per_decode_step"] =
      static_cast<double>(f.decode_rows) / static_cast<double>(decode_steps);
  j["read_bandwidth"] = bandwidth;
  j["fraction"] = median(f.decode);
  j["fraction_all_steps"] = median(f.all);
  j["rows_per_second"] = static_cast<double>(f.rows) / f.seconds;
  tell_gap(j, server, o, turns);
  const auto gauges = server.gauges();
  for (const auto& [residency, n] : server.starts()) {
    j["started_" + std::string(name(residency))] = n;
  }
  j["preemptions"] = gauges.preemptions;
  j["evictions"] = gauges.evictions;
  j["spilled_sessions"] = gauges.tiers.spilled;
  j["prefilled_tokens"] = gauges.prefilled_tokens;
  j["decoded_tokens"] = gauges.decoded_tokens;
  j["steps_ahead"] = server.lookahead().ahead_steps();
  j["steps_split"] = server.lookahead().split_steps();
  j["steps_ahead_beside_prompts"] = server.lookahead().after_steps();
  tell_counters(j, before, e->counters());
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

}  // namespace limpet::bench
