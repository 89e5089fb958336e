// Scenarios on the engine alone, with random weights: no process, no socket.
#include "bench/engine_bench.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <thread>

#include "bench/bench_model.h"
#include "bench/read_bandwidth.h"
#include "engine/engine.h"

namespace limpet::bench {
namespace {

using Clock = std::chrono::steady_clock;
using engine::Engine;
using engine::SequenceId;
using engine::StepResult;
using engine::Want;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Options {
  std::string shapes = "qwen2-0.5b", dtype = "bf16", device = "cpu";
  int threads = 0;
  bool int8_weights = false;
  int64_t context = 1800, fresh = 32, chunk = 128, batch = 1, steps = 32;
};

void add_options(CLI::App& app, Options& o) {
  app.add_option("--shapes", o.shapes, "qwen2-0.5b or qwen2-tiny")->capture_default_str();
  app.add_option("--dtype", o.dtype, "bf16 or f32")->check(CLI::IsMember({"bf16", "f32"}));
  app.add_flag("--int8-weights", o.int8_weights, "matrices as 8-bit integers");
  app.add_option("--device", o.device, "cpu, …")->capture_default_str();
  app.add_option("--threads", o.threads, "0: all")->capture_default_str();
  app.add_option("--context", o.context, "tokens of the session")->capture_default_str();
  app.add_option("--new", o.fresh, "tokens that the second turn adds")->capture_default_str();
  app.add_option("--chunk", o.chunk, "prefill rows in one step")->capture_default_str();
  app.add_option("--batch", o.batch, "sequences decoded together")->capture_default_str();
  app.add_option("--steps", o.steps, "decode steps to time")->capture_default_str();
}

std::unique_ptr<Engine> open(const Options& o, const engine::BucketOptions& buckets = {}) {
  engine::EngineOptions options;
  options.model_dir = model_folder(o.shapes);
  options.device = o.device;
  options.precision = o.dtype == "f32" ? engine::Precision::f32 : engine::Precision::bf16;
  options.int8_weights = o.int8_weights;
  options.threads = o.threads;
  options.kv_pages = o.batch * ((o.context + o.fresh + o.steps) / 16 + 4) + 64;
  options.share_prefixes = false;  // what is measured must be computed
  options.max_rows = std::max<int64_t>(o.chunk, o.batch);
  options.random_weights = 1;
  options.buckets = buckets;
  return Engine::open(options);
}

std::vector<Token> random_tokens(int64_t n, int64_t vocab, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<Token> out(static_cast<size_t>(n));
  for (Token& t : out) t = static_cast<Token>(rng() % static_cast<uint64_t>(vocab));
  return out;
}

// Appends the tokens in chunks; the logits after the last one are read back.
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

nlohmann::json describe(const Engine& e, const Options& o) {
  return {{"shapes", o.shapes}, {"dtype", o.dtype}, {"int8_weights", o.int8_weights},
          {"device", e.info().device},
          {"threads", o.threads}, {"context", o.context}};
}

int parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return -1;
}

// One decode step on each of the sequences; the seconds it took.
double decode_step(Engine& e, std::span<const SequenceId> ids, std::span<const Token> tokens) {
  std::vector<engine::StepRow> rows;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!e.kv().reserve(ids[i], 1)) throw std::runtime_error("out of KV pages");
    rows.push_back({ids[i], tokens.subspan(i, 1)});
  }
  const auto start = Clock::now();
  const StepResult r = e.step(rows);
  if (!r.ok()) throw std::runtime_error(r.error);
  return seconds_since(start);
}

}  // namespace

int turn2_bench(int argc, char** argv) {
  Options o;
  CLI::App app{"Time to the first token of a second turn: on resident KV, and re-prefilled"};
  add_options(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  auto e = open(o);
  const auto history = random_tokens(o.context, e->info().vocab, 1);
  const auto fresh = random_tokens(o.fresh, e->info().vocab, 2);

  const SequenceId resident = e->kv().create(0);
  prefill(*e, resident, history, o.chunk);
  const auto before = e->counters();
  const auto start = Clock::now();
  prefill(*e, resident, fresh, o.chunk);
  const double warm = seconds_since(start);
  const auto after = e->counters();
  e->kv().destroy(resident);  // the pool has room for one such session

  std::vector<Token> all = history;
  all.insert(all.end(), fresh.begin(), fresh.end());
  const SequenceId again = e->kv().create(0);
  const auto cold_start = Clock::now();
  prefill(*e, again, all, o.chunk);
  const double cold = seconds_since(cold_start);

  auto j = describe(*e, o);
  j["bench"] = "turn2";
  j["new_tokens"] = o.fresh;
  j["prefilled_rows"] = after.rows - before.rows;
  j["kv_bytes_moved"] = after.kv_bytes_up - before.kv_bytes_up + after.kv_bytes_down -
                        before.kv_bytes_down + after.kv_bytes_moved - before.kv_bytes_moved;
  j["resident_seconds"] = warm;
  j["reprefill_seconds"] = cold;
  j["ratio"] = cold / warm;
  j["prefill_tokens_per_second"] = static_cast<double>(all.size()) / cold;
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

int decode_bench(int argc, char** argv) {
  Options o;
  CLI::App app{"Tokens per second of plain decode steps on resident KV"};
  add_options(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  auto e = open(o);
  std::vector<SequenceId> ids;
  for (int64_t i = 0; i < o.batch; ++i) {
    ids.push_back(e->kv().create(0));
    prefill(*e, ids.back(), random_tokens(o.context, e->info().vocab, 3 + static_cast<uint64_t>(i)),
            o.chunk);
  }
  const auto tokens = random_tokens(o.batch * (o.steps + 2), e->info().vocab, 4);
  const bool cpu = e->info().device == "cpu:0" || e->info().device == "cpu";
  ReadBandwidth memory(o.threads > 0 ? o.threads
                                     : static_cast<int>(std::thread::hardware_concurrency()),
                       cpu ? int64_t{512} << 20 : 4096);
  double seconds = 0, kv_bytes = 0;
  std::vector<double> reads;
  for (int64_t s = 0; s < o.steps + 2; ++s) {
    // Interleaved with the steps, so that both meet the same neighbours.
    if (cpu && s % 8 == 1) reads.push_back(memory.measure());
    const double took =
        decode_step(*e, ids, std::span(tokens).subspan(static_cast<size_t>(s * o.batch)));
    if (s < 2) continue;  // two steps warm the caches
    seconds += took;
    for (const SequenceId id : ids) {
      kv_bytes += static_cast<double>(e->kv().length(id) * e->info().page_bytes / 16);
    }
  }
  auto j = describe(*e, o);
  j["bench"] = "decode";
  j["batch"] = o.batch;
  j["steps"] = o.steps;
  j["seconds_per_step"] = seconds / static_cast<double>(o.steps);
  j["tokens_per_second"] = static_cast<double>(o.steps * o.batch) / seconds;
  j["weight_bytes"] = e->info().weight_bytes;
  j["weight_bytes_per_second"] =
      static_cast<double>(e->info().weight_bytes) * static_cast<double>(o.steps) / seconds;
  const double all =
      static_cast<double>(e->info().weight_bytes * o.steps) + kv_bytes;
  j["bytes_per_second"] = all / seconds;  // weights and KV
  if (cpu) {
    std::sort(reads.begin(), reads.end());
    j["read_bandwidth"] = reads[reads.size() / 2];
    j["read_fraction"] = all / seconds / reads[reads.size() / 2];
  }
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

int prefill_bench(int argc, char** argv) {
  Options o;
  o.context = 512;
  CLI::App app{"A prompt of --context tokens in chunks: tokens and operations per second"};
  add_options(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  auto e = open(o);
  const auto prompt = random_tokens(o.context, e->info().vocab, 8);
  double best = 0;
  for (int64_t i = 0; i < 3; ++i) {
    const SequenceId id = e->kv().create(0);
    const auto start = Clock::now();
    prefill(*e, id, prompt, o.chunk);
    best = std::max(best, static_cast<double>(o.context) / seconds_since(start));
    e->kv().destroy(id);
  }
  const double bytes = o.int8_weights ? 1 : o.dtype == "f32" ? 4 : 2;
  const double table = static_cast<double>(e->info().vocab) * static_cast<double>(e->info().hidden);
  const double products = static_cast<double>(e->info().weight_bytes) / bytes - table;
  auto j = describe(*e, o);
  j["bench"] = "prefill";
  j["chunk"] = o.chunk;
  j["tokens_per_second"] = best;
  j["gflop_per_second"] = 2e-9 * products * best;  // of products with weights, the head left out
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

int bucket_bench(int argc, char** argv) {
  Options o;
  o.context = 1024;
  CLI::App app{"What padding costs: steps just above a bucket's lower bound, in a bucket twice as\n"
               "long as in one that fits closely; and what a change of bucket moves"};
  add_options(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  // The same past: rounded up to the next power of two, and to the next multiple of 128.
  auto wide = open(o, {.past = engine::LadderKind::powers_of_two});
  auto close = open(o, {.past = engine::LadderKind::linear});
  const auto history = random_tokens(o.context, wide->info().vocab, 5);
  const auto fresh = random_tokens(o.steps + 2, wide->info().vocab, 6);
  const SequenceId a[] = {wide->kv().create(0)}, b[] = {close->kv().create(0)};
  prefill(*wide, a[0], history, o.chunk);
  prefill(*close, b[0], history, o.chunk);
  const auto before = wide->counters();
  std::vector<double> ratios;
  for (size_t s = 0; s < fresh.size(); ++s) {
    const double in_wide = decode_step(*wide, a, std::span(fresh).subspan(s));
    const double in_close = decode_step(*close, b, std::span(fresh).subspan(s));
    if (s >= 2) ratios.push_back(in_wide / in_close);  // the first compiles
  }
  const auto after = wide->counters();
  std::sort(ratios.begin(), ratios.end());
  auto j = describe(*wide, o);
  j["bench"] = "bucket";
  j["step_ratio_median"] = ratios[ratios.size() / 2];
  j["compiles"] = after.compiles - before.compiles;
  j["kv_bytes_moved"] = after.kv_bytes_moved - before.kv_bytes_moved;
  j["weight_bytes_moved"] = after.weight_bytes_up - before.weight_bytes_up;
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

}  // namespace limpet::bench
