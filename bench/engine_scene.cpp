#include "bench/engine_scene.h"

#include <algorithm>
#include <random>
#include <sstream>
#include <stdexcept>

#include "bench/bench_model.h"

namespace limpet::bench {

using engine::Engine;
using engine::SequenceId;
using engine::StepResult;
using engine::Want;

void add_options(CLI::App& app, Options& o) {
  app.add_option("--shapes", o.shapes,
                 "llama-3.1-8b, llama-3.2-1b, qwen3-0.6b, qwen2.5-7b, qwen2-0.5b, qwen2-tiny")
      ->capture_default_str();
  app.add_option("--dtype", o.dtype, "bf16 or f32")->check(CLI::IsMember({"bf16", "f32"}));
  app.add_flag("--int8-weights", o.int8_weights, "matrices as 8-bit integers (cpu)");
  app.add_option("--device", o.device, "cpu, cuda:0, …")->capture_default_str();
  app.add_option("--threads", o.threads, "0: all")->capture_default_str();
  app.add_option("--context", o.context, "tokens of the session")->capture_default_str();
  app.add_option("--new", o.fresh, "tokens that the second turn adds")->capture_default_str();
  app.add_option("--chunk", o.chunk, "prefill rows in one step")->capture_default_str();
  app.add_option("--batch", o.batch, "sequences decoded together")->capture_default_str();
  app.add_option("--steps", o.steps, "decode steps to time")->capture_default_str();
  app.add_option("--points", o.points,
                 "several batch x context, as in 1x1024,8x4096, on one engine");
  app.add_flag("--random-kv", o.random_kv, "sessions hold random KV instead of a computed prompt");
  app.add_option("--kernel-choices", o.choices_file, "as limpet-worker's");
  app.add_flag("!--no-timed-kernels", o.timed_choices, "as limpet-worker's");
  app.add_flag("--timed", o.timed, "time the device's work too (costs a little itself)");
}

void add_check(CLI::App& app, Options& o) {
  app.add_flag("--check", o.check,
               "compare the last step's logits with those of an engine that runs op by op over\n"
               "the same KV; needs memory for the weights and the KV once more");
}

int parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return -1;
}

std::vector<Point> points_of(const Options& o) {
  if (o.points.empty()) return {{o.batch, o.context}};
  std::vector<Point> all;
  std::istringstream in(o.points);
  for (std::string one; std::getline(in, one, ',');) {
    Point p;
    char x = 0, more = 0;
    std::istringstream text(one);
    if (!(text >> p.batch >> x >> p.context) || x != 'x' || text >> more || p.batch < 1 ||
        p.context < 1) {
      throw std::runtime_error("--points takes batch x context, as in 1x1024,8x4096; not '" + one +
                               "'");
    }
    all.push_back(p);
  }
  return all;
}

std::unique_ptr<Engine> open(const Options& o, const std::vector<Point>& points,
                             const engine::BucketOptions& buckets) {
  engine::EngineOptions options;
  options.model_dir = model_folder(o.shapes);
  options.device = o.device;
  options.precision = o.dtype == "f32" ? engine::Precision::f32 : engine::Precision::bf16;
  options.int8_weights = o.int8_weights;
  options.threads = o.threads;
  options.max_rows = o.chunk;
  options.max_sequences = 1;
  for (const Point& p : points) {
    const int64_t pages = p.batch * ((p.context + o.fresh + o.steps) / 16 + 4) + 64;
    options.kv_pages = std::max(options.kv_pages, pages);
    options.max_rows = std::max(options.max_rows, p.batch);
    options.max_sequences = std::max(options.max_sequences, p.batch);
  }
  options.max_wanted = options.max_sequences;
  options.share_prefixes = false;  // what is measured must be computed
  options.random_weights = 1;
  options.buckets = buckets;
  options.timed = o.timed;
  options.timed_choices = o.timed_choices;
  options.choices_file = o.choices_file;
  options.fused = o.fused;
  auto e = Engine::open(options);
  if (o.random_kv) e->fill_kv(7);
  return e;
}

std::vector<Token> random_tokens(int64_t n, int64_t vocab, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<Token> out(static_cast<size_t>(n));
  for (Token& t : out) t = static_cast<Token>(rng() % static_cast<uint64_t>(vocab));
  return out;
}

void prefill(Engine& e, SequenceId id, std::span<const Token> tokens, int64_t chunk) {
  for (size_t at = 0; at < tokens.size();) {
    const size_t n = std::min(tokens.size() - at, static_cast<size_t>(chunk));
    const bool last = at + n == tokens.size();
    if (!e.kv().reserve(id, static_cast<int64_t>(n))) throw std::runtime_error("out of KV pages");
    const StepResult r = e.step({{id, tokens.subspan(at, n), last ? Want::last : Want::nothing}});
    if (!r.ok()) throw std::runtime_error(r.error);
    at += n;
  }
}

SequenceId sequence_of(Engine& e, const Options& o, int64_t context, uint64_t seed) {
  const SequenceId id = e.kv().create(0);
  const auto tokens = random_tokens(context, e.info().vocab, seed);
  if (!o.random_kv) {
    prefill(e, id, tokens, o.chunk);
    return id;
  }
  if (!e.kv().reserve(id, context)) throw std::runtime_error("out of KV pages");
  e.kv().commit(id, tokens);
  return id;
}

int64_t weight_bytes(const Engine& e, const Options& o) {
  const int64_t width = o.dtype == "f32" ? 4 : 2;  // of a table that is no matrix, with int8 too
  const int64_t table = heads_share_table(o.shapes) ? 0 : e.info().vocab * e.info().hidden;
  return e.info().weight_bytes - width * table;
}

int64_t kv_bytes(const Engine& e, int64_t tokens) { return tokens * e.info().page_bytes / 16; }

void tell_reading(nlohmann::json& j, int64_t bytes, double seconds, double bandwidth) {
  j["bytes"] = bytes;
  j["read_bandwidth"] = bandwidth;
  j["fraction"] = static_cast<double>(bytes) / seconds / bandwidth;
}

nlohmann::json describe(const std::string& bench, const Engine& e, const Options& o) {
  return {{"bench", bench},       {"shapes", o.shapes},   {"dtype", o.dtype},
          {"int8_weights", o.int8_weights},
          {"device", e.info().device}, {"about", e.info().about}, {"threads", o.threads}};
}

void tell_counters(nlohmann::json& j, const engine::EngineCounters& before,
                   const engine::EngineCounters& after) {
  j["engine_steps"] = after.steps - before.steps;
  j["graph_launches"] = after.graph_launches - before.graph_launches;
  j["eager_runs"] = after.eager_runs - before.eager_runs;
  j["captures"] = after.captures - before.captures;
  j["kernel_choices_timed"] = after.choices_timed;
  j["kernel_choice_seconds"] = after.choice_seconds;
  j["programs"] = after.compiles;  // so far, and those of them that take several ops at once
  j["fused_programs"] = after.fused_programs;
  j["bytes_up"] = after.bytes_up - before.bytes_up;
  j["bytes_down"] = after.bytes_down - before.bytes_down;
  j["kv_bytes_moved"] = after.kv_bytes_up - before.kv_bytes_up + after.kv_bytes_down -
                        before.kv_bytes_down + after.kv_bytes_moved - before.kv_bytes_moved;
  j["weight_bytes_moved"] = after.weight_bytes_up - before.weight_bytes_up;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace limpet::bench
