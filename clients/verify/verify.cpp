#include "clients/verify/verify.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>

#include "engine/safetensors.h"

namespace limpet::client {
namespace {

using engine::SequenceId;
using engine::StepResult;
using engine::StepRow;
using engine::Want;

constexpr int64_t kOtherRows = 3;  // most rows of another sequence in one step

// A NaN is the worst there is, and stays.
void keep_worst(double diff, double& worst) {
  if (std::isnan(diff) || diff > worst) worst = diff;
}

void compare(std::span<const float> got, std::span<const float> want, double& max_abs,
             double& kld) {
  double got_max = got[0], want_max = want[0];
  for (size_t i = 0; i < got.size(); ++i) {
    keep_worst(std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i])), max_abs);
    got_max = std::max<double>(got_max, got[i]);
    want_max = std::max<double>(want_max, want[i]);
  }
  double got_sum = 0, want_sum = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    got_sum += std::exp(static_cast<double>(got[i]) - got_max);
    want_sum += std::exp(static_cast<double>(want[i]) - want_max);
  }
  const double got_log = got_max + std::log(got_sum), want_log = want_max + std::log(want_sum);
  for (size_t i = 0; i < got.size(); ++i) {
    const double p = static_cast<double>(want[i]) - want_log;
    kld += std::exp(p) * (p - (static_cast<double>(got[i]) - got_log));
  }
}

double deviation(std::span<const float> values) {
  double sum = 0, squares = 0;
  for (const double v : values) sum += v;
  const double mean = sum / static_cast<double>(values.size());
  for (const double v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

double top_two_gap(std::span<const float> row) {
  float first = -INFINITY, second = -INFINITY;
  for (const float v : row) {
    if (v > first) {
      second = std::exchange(first, v);
    } else if (v > second) {
      second = v;
    }
  }
  return static_cast<double>(first) - static_cast<double>(second);
}

// One checked sequence among others that never matter to it.
class Run {
 public:
  Run(engine::Engine& engine, const Golden& golden, const VerifyOptions& options)
      : engine_(engine), golden_(golden) {
    for (int64_t i = 0; i < options.batch_with; ++i) {
      others_.push_back(engine.kv().create(static_cast<uint64_t>(i) + 1));
      // Pasts of 5, 24, 43, … tokens: in other pages and buckets than the checked one.
      const auto tokens = other_tokens(i, std::min<int64_t>(5 + 19 * i, kOtherPast));
      feed({{others_.back(), tokens, Want::nothing}});
    }
    checked_ = engine.kv().create(0);
  }
  ~Run() {
    for (const SequenceId id : others_) engine_.kv().destroy(id);
    engine_.kv().destroy(checked_);
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  // Appends tokens to the checked sequence and returns all their rows' logits.
  std::vector<float> step(std::span<const Token> tokens) {
    std::vector<std::vector<Token>> text;
    for (size_t i = 0; i < others_.size(); ++i) {
      const int64_t rows = 1 + (turn_ + static_cast<int64_t>(i)) % kOtherRows;
      text.push_back(other_tokens(static_cast<int64_t>(i) + turn_, rows));
    }
    ++turn_;
    std::vector<StepRow> rows;
    for (size_t i = 0; i < others_.size(); ++i) {
      if (i == others_.size() / 2) rows.push_back({checked_, tokens, Want::all});
      rows.push_back({others_[i], text[i], Want::last});
    }
    if (others_.empty()) rows.push_back({checked_, tokens, Want::all});
    const StepResult r = feed(rows);
    const auto first = static_cast<size_t>(r.first[others_.size() / 2] * r.width);
    const auto part = r.values.subspan(first, tokens.size() * static_cast<size_t>(r.width));
    return {part.begin(), part.end()};
  }

 private:
  static constexpr int64_t kOtherPast = 100;

  std::vector<Token> other_tokens(int64_t salt, int64_t n) const {
    std::vector<Token> tokens(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      tokens[static_cast<size_t>(i)] =
          static_cast<Token>((salt * 7919 + i * 104729 + 13) % golden_.vocab);
    }
    return tokens;
  }
  StepResult feed(const std::vector<StepRow>& rows) {
    for (const StepRow& row : rows) {
      if (!engine_.kv().reserve(row.sequence, std::ssize(row.tokens))) {
        throw std::runtime_error("the KV pool is too small for this golden file");
      }
    }
    StepResult r = engine_.step(rows);
    if (!r.ok()) throw std::runtime_error(r.error);
    return r;
  }

  engine::Engine& engine_;
  const Golden& golden_;
  std::vector<SequenceId> others_;
  SequenceId checked_{};
  int64_t turn_ = 0;
};

void check_tokens(const std::string& path, const std::vector<Token>& tokens, int64_t vocab) {
  for (const Token t : tokens) {
    if (t < 0 || t >= vocab) throw std::runtime_error(path + ": a token id is not in the vocab");
  }
}

std::vector<float> load_logits(const engine::SafeTensors& file, const char* name, size_t rows,
                               int64_t& vocab) {
  const auto& t = file.at(name);
  if (t.shape.size() != 2 || t.shape[0] != static_cast<int64_t>(rows) || t.shape[1] < 1 ||
      (vocab != 0 && t.shape[1] != vocab)) {
    throw std::runtime_error(file.path() + ": " + name + " is not [tokens, vocab]");
  }
  vocab = t.shape[1];
  return engine::to_float(t);
}

}  // namespace

Golden load_golden(const std::string& path) {
  const auto file = engine::SafeTensors::open(path);
  Golden g;
  g.input_ids = engine::to_int(file.at("input_ids"));
  g.greedy_ids = engine::to_int(file.at("greedy_ids"));
  if (g.input_ids.empty() || g.greedy_ids.empty()) {
    throw std::runtime_error(path + ": input_ids and greedy_ids must not be empty");
  }
  g.prefill_logits = load_logits(file, "prefill_logits", g.input_ids.size(), g.vocab);
  g.step_logits = load_logits(file, "step_logits", g.greedy_ids.size(), g.vocab);
  check_tokens(path, g.input_ids, g.vocab);
  check_tokens(path, g.greedy_ids, g.vocab);
  return g;
}

engine::EngineOptions verify_engine_options(const Golden& golden, const VerifyOptions& options) {
  const int64_t tokens = std::ssize(golden.input_ids) + std::ssize(golden.greedy_ids);
  engine::EngineOptions e;
  // The reference has prefilled its input in one go.
  e.least_rope_length = std::ssize(golden.input_ids);
  e.max_rows = std::ssize(golden.input_ids) + kOtherRows * options.batch_with + 128;
  e.max_wanted = e.max_rows;
  e.max_sequences = options.batch_with + 1;
  e.kv_pages = tokens / 16 + 2 + options.batch_with * ((kOtherRows * tokens + 128) / 16 + 2);
  return e;
}

VerifyReport verify(engine::Engine& engine, const Golden& golden, const VerifyOptions& options) {
  if (engine.info().vocab != golden.vocab) {
    throw std::runtime_error("the golden file has a vocab of " + std::to_string(golden.vocab) +
                             ", the model of " + std::to_string(engine.info().vocab));
  }
  Run run(engine, golden, options);
  const auto vocab = static_cast<size_t>(golden.vocab);
  const std::span<const Token> ids = golden.input_ids;
  const size_t chunk = options.chunk > 0 ? static_cast<size_t>(options.chunk) : ids.size();
  VerifyReport report;
  report.int8_weights = engine.info().int8_weights;
  report.greedy = std::ssize(golden.greedy_ids);
  report.logit_std = deviation(golden.prefill_logits);
  std::vector<float> logits;
  for (size_t at = 0; at < ids.size(); at += chunk) {
    const size_t n = std::min(chunk, ids.size() - at);
    logits = run.step(ids.subspan(at, n));
    for (size_t i = 0; i < n; ++i) {
      compare(std::span(logits).subspan(i * vocab, vocab),
              std::span(golden.prefill_logits).subspan((at + i) * vocab, vocab),
              report.max_abs_prefill, report.kld);
    }
    logits.erase(logits.begin(), logits.end() - golden.vocab);
  }
  for (size_t i = 0; i < golden.greedy_ids.size(); ++i) {
    const auto reference = std::span(golden.step_logits).subspan(i * vocab, vocab);
    compare(logits, reference, report.max_abs_step, report.kld);
    const auto best = std::ranges::max_element(logits) - logits.begin();
    if (best == golden.greedy_ids[i]) {
      ++report.matched;
    } else if (report.matched == static_cast<int64_t>(i)) {
      report.first_gap = top_two_gap(reference);
    }
    if (i + 1 < golden.greedy_ids.size()) logits = run.step({&golden.greedy_ids[i], 1});
  }
  report.kld /= static_cast<double>(ids.size() + golden.greedy_ids.size());
  return report;
}

VerifyReport verify_checkpoint(engine::EngineOptions engine_options, const Golden& golden,
                               const VerifyOptions& options) {
  VerifyReport report;
  for (const bool rounded : {false, true}) {
    if (options.rope == (rounded ? ReferenceRope::f32 : ReferenceRope::bf16)) continue;
    engine_options.bf16_rope_frequencies = rounded;
    const auto engine = engine::Engine::open(engine_options);
    const VerifyReport attempt = verify(*engine, golden, options);
    // When neither passes, the serving convention's figures are told.
    const bool first = !rounded || options.rope == ReferenceRope::bf16;
    if (!first && !attempt.pass(engine_options.precision)) break;
    report = attempt;
    report.bf16_rope = rounded;
    if (report.pass(engine_options.precision)) break;
  }
  return report;
}

bool VerifyReport::pass(engine::Precision precision) const {
  const double worst = std::max(max_abs_prefill, max_abs_step);
  const bool finite = std::isfinite(max_abs_prefill) && std::isfinite(max_abs_step) &&
                      std::isfinite(kld);
  if (precision == engine::Precision::f32 && !int8_weights) {
    return finite && worst <= 1e-3 * logit_std && matched == greedy;
  }
  // A weight within 1/254 of its row's largest: some four times bf16's rounding errors.
  if (int8_weights) return finite && worst <= 0.6 * logit_std && kld <= 5e-2;
  const bool close_call = matched == greedy || first_gap < 2e-2 * logit_std;
  return finite && worst <= 8e-2 * logit_std && kld <= 1e-3 && close_call;
}

std::string VerifyReport::json(engine::Precision precision) const {
  nlohmann::ordered_json line;
  line["max_abs_prefill"] = max_abs_prefill;
  line["max_abs_step"] = max_abs_step;
  line["logit_std"] = logit_std;
  line["kld"] = kld;
  line["greedy_match"] = {matched, greedy};
  line["rope_frequencies"] = bf16_rope ? "bf16" : "f32";
  line["pass"] = pass(precision);
  return line.dump();
}

}  // namespace limpet::client
