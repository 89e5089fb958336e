// What the engine's scenarios share: published shapes with random weights, sequences that hold
// random KV, and steps to time.
#pragma once
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace limpet::bench {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Point {
  int64_t batch = 1, context = 1024;
};

struct Options {
  std::string shapes = "qwen2-0.5b", dtype = "bf16", device = "cpu", points, choices_file;
  int threads = 0;
  int64_t context = 1800, fresh = 32, chunk = 128, batch = 1, steps = 32;
  bool timed = false, random_kv = false, int8_weights = false, check = false;
  bool fused = true, timed_choices = true;  // as EngineOptions
};

void add_options(CLI::App& app, Options& o);
// --check, of the scenarios that can.
void add_check(CLI::App& app, Options& o);
// -1: go on; else the exit status.
int parse(CLI::App& app, int argc, char** argv);
// Of --points ("1x1024,8x4096"), or --batch and --context.
std::vector<Point> points_of(const Options& o);

// An engine with KV pages for these sequences, each with so many tokens more than its context.
std::unique_ptr<engine::Engine> open(const Options& o, const std::vector<Point>& points,
                                     const engine::BucketOptions& buckets = {});

std::vector<Token> random_tokens(int64_t n, int64_t vocab, uint64_t seed);
// Appends the tokens in chunks; the logits after the last one are read back.
void prefill(engine::Engine& e, engine::SequenceId id, std::span<const Token> tokens,
             int64_t chunk);
// A sequence of `context` random tokens: computed, or over whatever the pages hold.
engine::SequenceId sequence_of(engine::Engine& e, const Options& o, int64_t context,
                               uint64_t seed);

// Bytes that a decode step must read: each weight once (of an embedding table that is no head's,
// nothing worth counting), and the sequences' KV.
int64_t weight_bytes(const engine::Engine& e, const Options& o);
int64_t kv_bytes(const engine::Engine& e, int64_t tokens);
// What had to be read in `seconds`, and how fast this process can read: their fraction.
void tell_reading(nlohmann::json& j, int64_t bytes, double seconds, double bandwidth);

// The scenario, the engine and what it counted since `before`.
nlohmann::json describe(const std::string& bench, const engine::Engine& e, const Options& o);
void tell_counters(nlohmann::json& j, const engine::EngineCounters& before,
                   const engine::EngineCounters& after);
double median(std::vector<double> values);

}  // namespace limpet::bench
