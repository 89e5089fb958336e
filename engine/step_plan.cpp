#include "engine/step_plan.h"

#include <algorithm>

namespace limpet::engine {
namespace {

std::string number(int64_t n) { return std::to_string(n); }

std::string check_group(const StepRow& group, const KvCache& kv, const StepLimits& limits) {
  if (!kv.contains(group.sequence)) return "a row of an unknown sequence";
  const int64_t n = std::ssize(group.tokens);
  if (n == 0) return "a row group without tokens";
  const int64_t past = kv.length(group.sequence);
  if (past + n > limits.max_context) {
    return "the sequence would have " + number(past + n) + " tokens; the limit is " +
           number(limits.max_context);
  }
  for (const Token t : group.tokens) {
    if (t < 0 || t >= limits.vocab) {
      return "token " + number(t) + " is not in the vocab of " + number(limits.vocab);
    }
  }
  if (!kv.reserved(group.sequence, n)) {
    return "no KV pages are reserved for " + number(n) + " more tokens of the sequence";
  }
  return "";
}

void add_group(const StepRow& group, const KvCache& kv, StepPlan& plan) {
  const auto index = static_cast<int32_t>(plan.sequences.size());
  const int64_t past = kv.length(group.sequence), n = std::ssize(group.tokens);
  plan.first.push_back(plan.wanted());
  for (int64_t i = 0; i < n; ++i) {
    if (group.want == Want::all || (group.want == Want::last && i == n - 1)) {
      plan.wanted_rows.push_back(static_cast<int32_t>(plan.rows()));
    }
    plan.token_ids.push_back(group.tokens[static_cast<size_t>(i)]);
    plan.positions.push_back(static_cast<int32_t>(past + i));
    plan.row_sequence.push_back(index);
  }
  plan.sequences.push_back(group.sequence);
  plan.longest_past = std::max(plan.longest_past, past);
}

}  // namespace

std::vector<int32_t> page_table(std::span<const SequenceId> sequences, const KvCache& kv,
                                int64_t pages) {
  std::vector<int32_t> table(sequences.size() * static_cast<size_t>(pages), 0);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const auto own = kv.page_table(sequences[s]);
    const auto n = std::min<int64_t>(std::ssize(own), pages);
    std::copy_n(own.begin(), n, table.begin() + static_cast<int64_t>(s) * pages);
  }
  return table;
}

std::string plan_step(std::span<const StepRow> groups, const KvCache& kv, const StepLimits& limits,
                      StepPlan& plan) {
  plan = {};
  if (groups.empty()) return "a step without rows";
  if (std::ssize(groups) > limits.max_sequences) {
    return "a step of " + number(std::ssize(groups)) + " sequences; the limit is " +
           number(limits.max_sequences);
  }
  for (const StepRow& group : groups) {
    if (auto error = check_group(group, kv, limits); !error.empty()) return error;
    add_group(group, kv, plan);
  }
  if (plan.rows() > limits.max_rows) {
    return "a step of " + number(plan.rows()) + " rows; the limit is " + number(limits.max_rows);
  }
  if (plan.wanted() > limits.max_wanted) {
    return number(plan.wanted()) + " rows wanted back from one step; the limit is " +
           number(limits.max_wanted);
  }
  auto ids = plan.sequences;
  std::ranges::sort(ids);
  if (std::ranges::adjacent_find(ids) != ids.end()) return "a sequence twice in one step";
  return "";
}

}  // namespace limpet::engine
