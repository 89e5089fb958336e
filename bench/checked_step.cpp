#include "bench/checked_step.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace limpet::bench {
namespace {

using engine::Engine;
using engine::SequenceId;
using engine::StepResult;
using engine::StepRow;

// Of layers whose activations are rounded to bf16, as tests/gpu/fused_test.cpp has it for three:
// such errors add up as their number's root does.
double tolerance(int64_t layers) {
  return std::max(2e-2, 1e-2 * std::sqrt(static_cast<double>(layers)));
}

std::vector<float> logits_of(Engine& e, std::span<const StepRow> rows) {
  for (const StepRow& row : rows) {
    if (!e.kv().reserve(row.sequence, std::ssize(row.tokens))) {
      throw std::runtime_error("--check: out of KV pages");
    }
  }
  const StepResult r = e.step(rows);
  if (!r.ok()) throw std::runtime_error("--check: " + r.error);
  return {r.values.begin(), r.values.end()};
}

Options op_by_op(Options o) {
  o.fused = false;
  return o;
}

}  // namespace

CheckedStep::CheckedStep(const Options& o, const std::vector<Point>& points)
    : plain_(open(op_by_op(o), points)) {}

SequenceId CheckedStep::copy_of(Engine& e, SequenceId id) {
  const SequenceId copy = plain_->kv().create(0);
  const auto tokens = e.kv().tokens(id);
  if (!plain_->kv().reserve(copy, std::ssize(tokens))) {
    throw std::runtime_error("--check: out of KV pages");
  }
  std::vector<std::byte> page(static_cast<size_t>(e.info().page_bytes));
  for (size_t i = 0; i < plain_->kv().page_table(copy).size(); ++i) {
    e.read_page(e.kv().page_table(id)[i], page);
    plain_->write_page(plain_->kv().page_table(copy)[i], page);
  }
  plain_->kv().commit(copy, tokens);
  return copy;
}

void CheckedStep::compare(Engine& e, std::span<const StepRow> rows, nlohmann::json& j) {
  std::vector<StepRow> copied;
  for (const StepRow& row : rows) {
    copied.push_back({copy_of(e, row.sequence), row.tokens, row.want});
  }
  const std::vector<float> want = logits_of(*plain_, copied);
  const std::vector<float> got = logits_of(e, rows);
  for (const StepRow& row : copied) plain_->kv().destroy(row.sequence);
  for (const StepRow& row : rows) {
    e.kv().truncate(row.sequence, e.kv().length(row.sequence) - std::ssize(row.tokens));
  }
  if (got.size() != want.size()) throw std::runtime_error("--check: other rows came back");
  double difference = 0, all = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2.0);
    all += std::pow(static_cast<double>(want[i]), 2.0);
  }
  const double error = all > 0 ? std::sqrt(difference / all) : INFINITY;
  const auto vocab = static_cast<std::ptrdiff_t>(e.info().vocab);
  int64_t same = 0;
  for (auto g = got.begin(), w = want.begin(); g != got.end(); g += vocab, w += vocab) {
    same += std::max_element(g, g + vocab) - g == std::max_element(w, w + vocab) - w ? 1 : 0;
  }
  j["check_rows"] = std::ssize(got) / vocab;
  j["check_same_tokens"] = same;
  j["check_relative_error"] = error;
  const double most = tolerance(e.info().layers);
  j["check_most"] = most;
  j["right"] = error <= most;
  if (error <= most) return;
  throw std::runtime_error("the logits are wrong: " + j.dump());
}

}  // namespace limpet::bench
