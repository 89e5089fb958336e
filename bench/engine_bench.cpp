// Scenarios on the engine alone, with random weights: no process, no socket.
#include "bench/engine_bench.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "bench/bench_model.h"
#include "bench/checked_step.h"
#include "bench/decode_loop.h"
#include "bench/engine_scene.h"

namespace limpet::bench {
namespace {

using engine::Engine;
using engine::SequenceId;
using engine::StepResult;

// The rows of the last step that these sequences were in, which is undone.
struct LastStep {
  std::vector<Token> tokens{};
  std::vector<engine::StepRow> rows{};
};
LastStep undo_last_step(Engine& e, const std::vector<SequenceId>& ids) {
  LastStep last;
  for (const SequenceId id : ids) last.tokens.push_back(e.kv().tokens(id).back());
  for (size_t i = 0; i < ids.size(); ++i) {
    e.kv().truncate(ids[i], e.kv().length(ids[i]) - 1);
    last.rows.push_back({ids[i], std::span(last.tokens).subspan(i, 1)});
  }
  return last;
}

void decode_point(Engine& e, const Options& o, const Point& p, double bandwidth,
                  CheckedStep* checked) {
  std::vector<SequenceId> ids;
  for (int64_t i = 0; i < p.batch; ++i) {
    ids.push_back(sequence_of(e, o, p.context, 3 + static_cast<uint64_t>(i)));
  }
  DecodeLoop loop(e, ids);
  for (int i = 0; i < 4; ++i) loop.next();  // compiles, and warms what can be warm
  const auto before = e.counters();
  std::vector<double> seconds;
  const auto start = Clock::now();
  for (int64_t s = 0; s < o.steps; ++s) seconds.push_back(loop.next());
  const double wall = seconds_since(start);
  const auto after = e.counters();
  loop.end();

  auto j = describe("decode", e, o);
  const double step = median(seconds);
  j["batch"] = p.batch;
  j["context"] = p.context;
  j["steps"] = o.steps;
  j["seconds_per_step"] = step;
  j["mean_seconds_per_step"] = wall / static_cast<double>(o.steps);
  j["tokens_per_second"] = static_cast<double>(p.batch) / step;
  j["weight_bytes"] = weight_bytes(e, o);
  j["kv_bytes"] = kv_bytes(e, p.batch * p.context);
  tell_reading(j, weight_bytes(e, o) + kv_bytes(e, p.batch * p.context), step, bandwidth);
  tell_counters(j, before, after);
  if (o.timed) {
    j["busy_seconds_per_step"] =
        (after.busy_seconds - before.busy_seconds) / static_cast<double>(o.steps);
    j["idle_seconds_per_step"] =
        (after.idle_seconds - before.idle_seconds) / static_cast<double>(o.steps);
  }
  if (checked != nullptr) checked->compare(e, undo_last_step(e, ids).rows, j);
  for (const SequenceId id : ids) e.kv().destroy(id);
  std::printf("%s\n", j.dump().c_str());
  std::fflush(stdout);
}

// One decode step through step(); the seconds it took.
double plain_step(Engine& e, SequenceId id, std::span<const Token> token) {
  if (!e.kv().reserve(id, 1)) throw std::runtime_error("out of KV pages");
  const auto start = Clock::now();
  const StepResult r = e.step({{id, token}});
  expect(r.error);
  return seconds_since(start);
}

}  // namespace

int decode_bench(int argc, char** argv) {
  Options o;
  CLI::App app{"Decode steps on resident KV: tokens a second, and bytes against read bandwidth"};
  add_options(app, o);
  add_check(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  const auto points = points_of(o);
  auto e = open(o, points);
  const double bandwidth = measured_read_bandwidth(*e);
  std::unique_ptr<CheckedStep> checked;
  if (o.check) checked = std::make_unique<CheckedStep>(o, points);
  for (const Point& p : points) decode_point(*e, o, p, bandwidth, checked.get());
  return 0;
}

int turn2_bench(int argc, char** argv) {
  Options o;
  CLI::App app{"Time to the first token of a second turn: on resident KV, and re-prefilled"};
  add_options(app, o);
  add_check(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  auto e = open(o, {{1, o.context}});
  const auto history = random_tokens(o.context, e->info().vocab, 1);
  const auto fresh = random_tokens(o.fresh, e->info().vocab, 2);
  std::vector<Token> all = history;
  all.insert(all.end(), fresh.begin(), fresh.end());

  // Twice each: the first compiles.
  std::vector<double> warm, cold;
  engine::EngineCounters before, after;
  for (int turn = 0; turn < 2; ++turn) {
    const SequenceId again = e->kv().create(0);
    const auto cold_start = Clock::now();
    prefill(*e, again, all, o.chunk);
    cold.push_back(seconds_since(cold_start));
    e->kv().destroy(again);  // the pool has room for one such session
  }
  const SequenceId resident = sequence_of(*e, o, o.context, 1);
  for (int turn = 0; turn < 6; ++turn) {
    before = e->counters();
    const auto start = Clock::now();
    prefill(*e, resident, fresh, o.chunk);
    warm.push_back(seconds_since(start));
    after = e->counters();
    e->kv().truncate(resident, o.context);
  }
  auto j = describe("turn2", *e, o);
  const double bandwidth = measured_read_bandwidth(*e);
  const int64_t bytes = weight_bytes(*e, o) + kv_bytes(*e, o.context);
  const double first = median({warm.begin() + 1, warm.end()});
  j["context"] = o.context;
  j["new_tokens"] = o.fresh;
  j["prefilled_rows"] = after.rows - before.rows;
  tell_counters(j, before, after);
  j["resident_seconds"] = first;
  j["reprefill_seconds"] = cold.back();
  j["ratio"] = cold.back() / first;
  tell_reading(j, bytes, first, bandwidth);
  j["over_one_pass"] = first / (static_cast<double>(bytes) / bandwidth);
  if (o.check) {
    const size_t last = fresh.size() - (fresh.size() - 1) % static_cast<size_t>(o.chunk) - 1;
    if (last > 0) prefill(*e, resident, std::span(fresh).first(last), o.chunk);
    const engine::StepRow row{resident, std::span(fresh).subspan(last)};
    CheckedStep(o, {{1, o.context}}).compare(*e, {&row, 1}, j);
  }
  j["prefill_tokens_per_second"] = static_cast<double>(all.size()) / cold.back();
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

int prefill_bench(int argc, char** argv) {
  Options o;
  o.context = 4096;
  o.chunk = 2048;
  CLI::App app{"A prompt of --context tokens in steps of --chunk rows, to its first token"};
  add_options(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  auto e = open(o, {{1, o.context}});
  const auto tokens = random_tokens(o.context, e->info().vocab, 1);
  std::vector<double> seconds;
  engine::EngineCounters before, after;
  for (int64_t i = 0; i < std::max<int64_t>(o.steps / 8, 2) + 1; ++i) {
    const SequenceId id = e->kv().create(0);
    before = e->counters();
    const auto start = Clock::now();
    prefill(*e, id, tokens, o.chunk);
    if (i > 0) seconds.push_back(seconds_since(start));  // the first compiles
    after = e->counters();
    e->kv().destroy(id);
  }
  auto j = describe("prefill", *e, o);
  j["context"] = o.context;
  j["chunk"] = o.chunk;
  j["seconds"] = median(seconds);
  j["tokens_per_second"] = static_cast<double>(o.context) / median(seconds);
  // Of products with weights; of the head's, only one row.
  const double width = o.int8_weights ? 1 : o.dtype == "f32" ? 4 : 2;
  const auto table = static_cast<double>(e->info().vocab * e->info().hidden);
  const double products = static_cast<double>(weight_bytes(*e, o)) / width - table;
  j["gflop_per_second"] = 2e-9 * products * static_cast<double>(o.context) / median(seconds);
  // Each step reads the weights once, and the KV of the steps before it.
  int64_t bytes = 0;
  for (int64_t past = 0; past < o.context; past += o.chunk) {
    bytes += weight_bytes(*e, o) + kv_bytes(*e, past);
  }
  tell_reading(j, bytes, median(seconds), measured_read_bandwidth(*e));
  tell_counters(j, before, after);
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

// Steps of one row across the borders of buckets that are compiled and have never run.
struct Crossings {
  std::vector<double> seconds{}, steady{}, ratios{};
};
Crossings cross_buckets(Engine& e, const Options& o,
                        const std::vector<engine::WarmedBucket>& warm) {
  constexpr int64_t kBeside = 8;  // steps before a border and after it
  constexpr auto kKind = engine::ProgramKind::decode;
  Crossings all;
  std::vector<int64_t> borders;
  for (const engine::WarmedBucket& b : warm) {
    const int64_t past = b.key.past();
    if (b.key.batch() == 1 && past < o.context && past > kBeside) borders.push_back(past);
  }
  std::ranges::sort(borders);
  for (const int64_t border : borders) {
    const auto tokens = random_tokens(2 * kBeside + 1, e.info().vocab, 8);
    const SequenceId id = sequence_of(e, o, border - kBeside, 9);
    plain_step(e, id, std::span(tokens).first(1));  // another program ran before it
    std::vector<double> steady;
    for (size_t s = 1; s < tokens.size(); ++s) {
      const auto before = e.binding().upper(kKind);
      const double took = plain_step(e, id, std::span(tokens).subspan(s, 1));
      (e.binding().upper(kKind) == before ? steady : all.seconds).push_back(took);
    }
    e.kv().destroy(id);
    all.steady.push_back(median(steady));
    if (all.seconds.size() != all.steady.size()) throw std::runtime_error("no border was crossed");
    all.ratios.push_back(all.seconds.back() / all.steady.back());
  }
  return all;
}

void tell_crossings(nlohmann::json& j, const Crossings& all) {
  j["crossings"] = all.ratios.size();
  if (all.ratios.empty()) return;
  j["crossing_step_seconds"] = median(all.seconds);
  j["steady_step_seconds"] = median(all.steady);
  j["crossing_over_steady"] = median(all.ratios);
  j["crossing_over_steady_most"] = std::ranges::max(all.ratios);
}

int bucket_bench(int argc, char** argv) {
  Options o;
  o.context = 1024;
  CLI::App app{"What padding costs: steps just above a bucket's lower bound, in a bucket twice as\n"
               "long as in one that fits closely; and what a change of bucket moves"};
  add_options(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  // The same past: rounded up to the next power of two, and to the next multiple of 128.
  auto wide = open(o, {{1, o.context}}, {.past = engine::LadderKind::powers_of_two});
  auto close = open(o, {{1, o.context}}, {.past = engine::LadderKind::linear});
  // What a worker does before it is ready: all shapes, before a step has compiled any.
  std::vector<engine::WarmedBucket> warm;
  wide->warm(o.chunk, o.context, [&](const engine::WarmedBucket& b) { warm.push_back(b); });
  const auto warmed = wide->counters();
  const Crossings crossings = cross_buckets(*wide, o, warm);
  const auto fresh = random_tokens(o.steps + 2, wide->info().vocab, 6);
  const SequenceId a = sequence_of(*wide, o, o.context, 5);
  const SequenceId b = sequence_of(*close, o, o.context, 5);
  const auto before = wide->counters();
  std::vector<double> ratios, wide_steps;
  for (size_t s = 0; s < fresh.size(); ++s) {
    const double in_wide = plain_step(*wide, a, std::span(fresh).subspan(s, 1));
    const double in_close = plain_step(*close, b, std::span(fresh).subspan(s, 1));
    if (s < 2) continue;  // the first compiles
    ratios.push_back(in_wide / in_close), wide_steps.push_back(in_wide);
  }
  const auto after = wide->counters();
  auto j = describe("bucket", *wide, o);
  j["context"] = o.context;
  j["step_ratio_median"] = median(ratios);
  j["seconds_per_step"] = median(wide_steps);
  tell_reading(j, weight_bytes(*wide, o) + kv_bytes(*wide, o.context), median(wide_steps),
               measured_read_bandwidth(*wide));
  j["compiles"] = after.compiles - before.compiles;
  tell_counters(j, before, after);
  j["buckets"] = warmed.compiles;
  j["bucket_captures"] = warmed.captures;
  j["capture_seconds"] = warmed.capture_seconds;
  double choosing = 0, longest = 0;
  for (const engine::WarmedBucket& b : warm) {
    choosing += b.choosing, longest = std::max(longest, b.choosing);
  }
  j["choosing_seconds"] = choosing;  // of kernels, in the first bucket of so many rows
  j["longest_choosing_seconds"] = longest;
  j["first_bucket_seconds"] = warm.front().seconds;
  if (warm.size() > 1) warm.erase(warm.begin());
  std::ranges::sort(warm, std::ranges::greater(), &engine::WarmedBucket::seconds);
  j["seconds_per_bucket"] = warm[warm.size() / 2].seconds;
  for (size_t i = 0; i < std::min<size_t>(warm.size(), 4); ++i) {
    j["slowest_buckets"][to_string(warm[i].key)] = warm[i].seconds;
  }
  j["weight_bytes_up_over_model"] =
      static_cast<double>(warmed.weight_bytes_up) / static_cast<double>(wide->info().weight_bytes);
  const int64_t width = o.int8_weights ? 1 : o.dtype == "f32" ? 4 : 2;
  j["weight_bytes_allocated"] = after.weight_bytes_allocated;
  j["weight_bytes_allocated_over_model"] = static_cast<double>(after.weight_bytes_allocated) /
                                           static_cast<double>(width * parameters(o.shapes));
  tell_crossings(j, crossings);
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

int copyback_bench(int argc, char** argv) {
  Options o;
  o.context = 4096;
  o.steps = 3;
  CLI::App app{"The straightforward way, to compare with: before each step a session's KV goes up\n"
               "from host memory, after it the whole comes back; against steps on resident KV"};
  add_options(app, o);
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  auto e = open(o, {{2, o.context}});
  const auto fresh = random_tokens(o.steps + 2, e->info().vocab, 6);
  SequenceId id = sequence_of(*e, o, o.context, 5);
  std::vector<double> resident, copied;
  for (size_t s = 0; s < fresh.size(); ++s) {
    const double took = plain_step(*e, id, std::span(fresh).subspan(s, 1));
    if (s >= 2) resident.push_back(took);
  }
  engine::HostKv kv = e->sync_to_host(id);
  const auto before = e->counters();
  for (int64_t s = 0; s < o.steps; ++s) {
    const auto start = Clock::now();
    std::vector<Token> tokens(e->kv().tokens(id).begin(), e->kv().tokens(id).end());
    e->kv().destroy(id);
    id = e->kv().create(0);
    expect(e->install(id, tokens, kv));
    plain_step(*e, id, std::span(fresh).subspan(static_cast<size_t>(s), 1));
    kv = e->sync_to_host(id);
    copied.push_back(seconds_since(start));
  }
  auto j = describe("copyback", *e, o);
  j["context"] = o.context;
  j["resident_seconds_per_step"] = median(resident);
  j["copied_seconds_per_step"] = median(copied);
  j["ratio"] = median(copied) / median(resident);
  // Of the resident step; the other reads as much on the device.
  tell_reading(j, weight_bytes(*e, o) + kv_bytes(*e, o.context), median(resident),
               measured_read_bandwidth(*e));
  tell_counters(j, before, e->counters());
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

}  // namespace limpet::bench
