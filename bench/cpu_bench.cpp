// What decode and prefill make of this machine's memory and arithmetic.
#include <hwy/targets.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <thread>

#include "bench/bench_model.h"
#include "bench/engine_bench.h"
#include "bench/read_bandwidth.h"
#include "engine/engine.h"

namespace limpet::bench {
namespace {

using Clock = std::chrono::steady_clock;
using engine::Engine;
using engine::SequenceId;
using engine::StepResult;
using engine::Want;

struct Options {
  std::string shapes = "qwen2-0.5b";
  int threads = 0;
  int64_t rounds = 3, steps = 12, long_context = 4000, chunk = 128;
};

// A way to run the model; its kernels are chosen as its steps begin.
struct Way {
  std::string name;
  bool int8 = false, portable = false;
};

std::unique_ptr<Engine> open(const Options& o, const Way& way) {
  engine::EngineOptions e;
  e.model_dir = model_folder(o.shapes);
  e.precision = engine::Precision::bf16;
  e.int8_weights = way.int8;
  e.dot_products = !way.portable;
  e.threads = o.threads;
  e.kv_pages = (9 * 200 + o.long_context + o.rounds * o.steps * 10 + 4 * o.chunk) / 16 + 64;
  e.share_prefixes = false;  // what is measured must be computed
  e.max_rows = o.chunk;
  e.random_weights = 1;
  return Engine::open(e);
}

void choose_kernels(bool portable) {
  const auto all = hwy::SupportedAndGeneratedTargets();
  hwy::SetSupportedTargetsForTest(portable ? all.back() : 0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

std::vector<Token> random_tokens(int64_t n, int64_t vocab, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<Token> out(static_cast<size_t>(n));
  for (Token& t : out) t = static_cast<Token>(rng() % static_cast<uint64_t>(vocab));
  return out;
}

// Sequences of one length that are decoded together; their KV is random, not computed.
class Decode {
 public:
  Decode(Engine& e, const Way& way, int64_t batch, int64_t context)
      : e_(e), way_(way), context_(context) {
    engine::HostKv kv;
    kv.rows = context;
    kv.kv_dim = e.info().kv_heads * e.info().head_dim;
    kv.layers.resize(static_cast<size_t>(e.info().layers));
    std::mt19937 rng(5);
    for (auto& layer : kv.layers) {
      for (auto* side : {&layer.k, &layer.v}) {
        side->resize(static_cast<size_t>(kv.rows * kv.kv_dim));
        for (float& v : *side) v = static_cast<float>(rng() % 2001) * 1e-3f - 1.0f;
      }
    }
    const auto tokens = random_tokens(context, e.info().vocab, 3);
    for (int64_t i = 0; i < batch; ++i) {
      ids_.push_back(e.kv().create(0));
      const std::string error = e.install(ids_.back(), tokens, kv);
      if (!error.empty()) throw std::runtime_error(error);
    }
    step(2);  // compiles and warms
    seconds_ = 0, steps_ = 0, bytes_ = 0;
  }

  void step(int64_t n) {
    choose_kernels(way_.portable);
    const double kv_token = static_cast<double>(e_.info().page_bytes) / 16;
    for (int64_t s = 0; s < n; ++s) {
      std::vector<engine::StepRow> rows;
      double kv_bytes = 0;
      for (const SequenceId id : ids_) {
        if (!e_.kv().reserve(id, 1)) throw std::runtime_error("out of KV pages");
        kv_bytes += kv_token * static_cast<double>(e_.kv().length(id) + 1);
        rows.push_back({id, kToken, Want::last});
      }
      const auto start = Clock::now();
      const StepResult r = e_.step(rows);
      if (!r.ok()) throw std::runtime_error(r.error);
      seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
      bytes_ += static_cast<double>(e_.info().weight_bytes) + kv_bytes;
      ++steps_;
    }
  }

  double bytes_per_second() const { return bytes_ / seconds_; }
  double tokens_per_second() const {
    return static_cast<double>(steps_) * static_cast<double>(ids_.size()) / seconds_;
  }
  nlohmann::ordered_json line(double bandwidth) const {
    return {{"bench", "cpu"},
            {"what", "decode"},
            {"weights", way_.name},
            {"batch", ids_.size()},
            {"context", context_},
            {"tokens_per_second", tokens_per_second()},
            {"bytes_per_second", bytes_per_second()},
            {"read_bandwidth", bandwidth},
            {"fraction", bytes_per_second() / bandwidth}};
  }

 private:
  static constexpr Token kToken[] = {7};
  Engine& e_;
  const Way& way_;
  int64_t context_, steps_ = 0;
  std::vector<SequenceId> ids_;
  double seconds_ = 0, bytes_ = 0;
};

// Chunks of a prompt: operations of all products with weights but the head's, per second.
nlohmann::ordered_json prefill(Engine& e, const Options& o, const Way& way) {
  choose_kernels(way.portable);
  const auto tokens = random_tokens(2 * o.chunk, e.info().vocab, 9);
  double best = 0;
  for (int64_t i = 0; i < o.rounds; ++i) {
    const SequenceId id = e.kv().create(0);
    const auto start = Clock::now();
    for (int64_t at = 0; at < 2 * o.chunk; at += o.chunk) {
      const auto part = std::span(tokens).subspan(static_cast<size_t>(at),
                                                  static_cast<size_t>(o.chunk));
      if (!e.kv().reserve(id, o.chunk)) throw std::runtime_error("out of KV pages");
      const StepResult r = e.step({{id, part, Want::nothing}});
      if (!r.ok()) throw std::runtime_error(r.error);
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, static_cast<double>(2 * o.chunk) / seconds);
    e.kv().destroy(id);
  }
  const double table = static_cast<double>(e.info().vocab) * static_cast<double>(e.info().hidden);
  const double weights =
      static_cast<double>(e.info().weight_bytes) / (way.int8 ? 1.0 : 2.0) - table;
  return {{"bench", "cpu"},           {"what", "prefill"},
          {"weights", way.name},      {"chunk", o.chunk},
          {"tokens_per_second", best}, {"gflop_per_second", 2e-9 * weights * best}};
}

void print(const nlohmann::ordered_json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

void measure(const Options& o) {
  const Way bf16{.name = "bf16"}, int8{.name = "int8", .int8 = true};
  const Way portable{.name = "bf16, portable", .portable = true};
  const auto plain = open(o, bf16), whole = open(o, int8), slow = open(o, portable);
  const int threads =
      o.threads > 0 ? o.threads : static_cast<int>(std::thread::hardware_concurrency());
  ReadBandwidth memory(threads, int64_t{512} << 20);
  std::vector<Decode> all;
  all.reserve(6);
  all.emplace_back(*plain, bf16, 1, 100);
  all.emplace_back(*plain, bf16, 8, 100);
  all.emplace_back(*plain, bf16, 1, o.long_context);
  all.emplace_back(*whole, int8, 1, 100);
  all.emplace_back(*whole, int8, 8, 100);
  all.emplace_back(*slow, portable, 1, 100);
  std::vector<double> reads;
  for (int64_t r = 0; r < o.rounds; ++r) {
    // Interleaved, so that all of them meet the same neighbours.
    for (Decode& d : all) {
      reads.push_back(memory.measure());
      d.step(&d == &all.back() ? std::max<int64_t>(o.steps / 3, 1) : o.steps);
    }
  }
  std::sort(reads.begin(), reads.end());
  const double read = reads[reads.size() / 2];
  for (const Decode& d : all) print(d.line(read));
  const double one = all[0].tokens_per_second();
  print({{"bench", "cpu"},
         {"what", "ratios"},
         {"batch_8_to_1", all[1].tokens_per_second() / one},
         {"long_context_to_100", all[2].bytes_per_second() / all[0].bytes_per_second()},
         {"int8_to_bf16", all[3].tokens_per_second() / one},
         {"best_to_portable", one / all[5].tokens_per_second()}});
  print(prefill(*plain, o, bf16));
  print(prefill(*whole, o, int8));
  print(prefill(*slow, o, portable));
}

}  // namespace

int cpu_bench(int argc, char** argv) {
  Options o;
  CLI::App app{
      "Decode on the CPU against its memory's read bandwidth, interleaved in one process: batch 1\n"
      "and 8, a long context, int8 weights, the portable kernels; and chunked prefill"};
  app.add_option("--shapes", o.shapes, "qwen2-0.5b or qwen2-tiny")->capture_default_str();
  app.add_option("--threads", o.threads, "0: all")->capture_default_str();
  app.add_option("--rounds", o.rounds, "of each measurement")->capture_default_str();
  app.add_option("--steps", o.steps, "decode steps in a round")->capture_default_str();
  app.add_option("--long-context", o.long_context, "tokens")->capture_default_str();
  app.add_option("--chunk", o.chunk, "prefill rows in one step")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  measure(o);
  return 0;
}

}  // namespace limpet::bench
