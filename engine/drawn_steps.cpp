#include "engine/drawn_steps.h"

#include <algorithm>
#include <stdexcept>

namespace limpet::engine {
namespace {

static_assert(SamplingOptions::kMaxLogprobs == ops::kMostLogprobs);

ops::DrawSpec spec_of(const SamplingOptions& o, int64_t position, int32_t context) {
  ops::DrawSpec d{.draws = 1,
                  .top_k = o.top_k,
                  .logprobs = o.logprobs,
                  .context = context,
                  .temperature = o.temperature,
                  .top_p = o.top_p,
                  .min_p = o.min_p,
                  .penalty = o.repetition_penalty};
  d.seed = o.seed;
  d.position = position;
  return d;
}

Sampled sampled_of(const ops::DrawnToken& drawn) {
  Sampled s;
  if (drawn.status == ops::DrawStatus::not_finite) {
    s.error = "the logits are not finite (NaN or infinity)";
  } else if (drawn.status == ops::DrawStatus::nothing) {
    s.error = "no token can be drawn: the row is empty or all its logits are -inf";
  }
  s.token = drawn.token;
  s.logprob = drawn.logprob;
  for (int32_t i = 0; i < drawn.told; ++i) {
    s.top.push_back({drawn.top[i].token, drawn.top[i].logprob});
  }
  return s;
}

}  // namespace

std::string DrawnSteps::submit(std::span<const DrawRow> rows) {
  if (in_flight() >= 2) return "two steps are in flight already";
  std::vector<StepRow> groups;
  for (const DrawRow& r : rows) {
    groups.push_back({r.sequence, r.tokens, r.draw ? Want::last : Want::nothing});
  }
  StepPlan plan;
  if (auto error = plan_step(groups, kv_, limits_, plan); !error.empty()) return error;
  InFlight step;
  std::vector<ops::DrawSpec> draws;
  std::vector<std::vector<Token>> contexts;
  for (const DrawRow& r : rows) {
    step.rows.push_back({r.sequence, {r.tokens.begin(), r.tokens.end()}, -1});
    if (!r.draw) continue;
    step.rows.back().drawn = static_cast<int32_t>(step.drawn++);
    const bool penalty = r.draw->repetition_penalty != 1.0f;
    draws.push_back(spec_of(*r.draw, r.position,
                            penalty ? static_cast<int32_t>(contexts.size()) : -1));
    if (!penalty) continue;
    const auto before = kv_.tokens(r.sequence);
    contexts.emplace_back(before.begin(), before.end());
    contexts.back().insert(contexts.back().end(), r.tokens.begin(), r.tokens.end());
  }
  const auto write = [&](int64_t pages) {
    io_.write_draws(plan, kv_, pages, draws, contexts);
  };
  auto error = run_(plan.rows(), std::ssize(plan.sequences), plan.longest_past, write);
  if (!error.empty()) return error;
  io_.begin_drawn(step.drawn);
  steps_.push_back(std::move(step));
  return "";
}

std::string DrawnSteps::cannot_go_on(std::span<const int32_t> from) const {
  if (in_flight() != 1) return "only a step that is alone in flight can be gone on from";
  if (from.empty()) return "no row goes on";
  const InFlight& last = steps_.back();
  if (std::ssize(last.rows) > ops::kMostAdvanced) return "too many rows to go on from";
  const bool decoded = std::ranges::all_of(last.rows, [](const Row& r) {
    return r.drawn >= 0 && r.tokens.size() <= 1;  // none yet where the device fed it
  });
  if (!decoded) return "only a step of one drawn token a row can be gone on from";
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i] < 0 || from[i] >= std::ssize(last.rows) || (i > 0 && from[i] <= from[i - 1])) {
      return "rows to go on from must ascend and be there";
    }
    const SequenceId s = last.rows[static_cast<size_t>(from[i])].sequence;
    if (!kv_.contains(s)) return "a row of an unknown sequence";
    if (kv_.length(s) + 2 > limits_.max_context) return "the context is full";
    if (!kv_.reserved(s, 2)) return "no KV pages are reserved for 2 more tokens of the sequence";
  }
  return "";
}

std::string DrawnSteps::submit_next(std::span<const int32_t> from) {
  if (auto error = cannot_go_on(from); !error.empty()) return error;
  InFlight next;
  std::vector<SequenceId> sequences;
  int64_t longest = 0;
  for (const int32_t r : from) {
    const SequenceId s = steps_.back().rows[static_cast<size_t>(r)].sequence;
    next.rows.push_back({s, {}, static_cast<int32_t>(next.drawn++)});
    sequences.push_back(s);
    longest = std::max(longest, kv_.length(s) + 1);
  }
  next.from.assign(from.begin(), from.end());
  const auto write = [&](int64_t pages) { io_.advance(from, sequences, kv_, pages); };
  auto error = run_(std::ssize(from), std::ssize(from), longest, write);
  if (!error.empty()) return error;
  io_.begin_drawn(next.drawn);
  steps_.push_back(std::move(next));
  return "";
}

std::vector<Sampled> DrawnSteps::collect(std::span<const int32_t> keep) {
  if (steps_.empty()) throw std::logic_error("collect: no step is in flight");
  const InFlight step = std::move(steps_.front());
  steps_.pop_front();
  const auto drawn = io_.finish_drawn(step.drawn);
  std::vector<Sampled> all(step.rows.size());
  for (size_t i = 0; i < step.rows.size(); ++i) {
    const int32_t row = step.rows[i].drawn;
    if (row >= 0) all[i] = sampled_of(drawn[static_cast<size_t>(row)]);
  }
  for (const int32_t i : keep) {
    const Row& row = step.rows.at(static_cast<size_t>(i));
    kv_.commit(row.sequence, row.tokens);
  }
  if (!steps_.empty() && !steps_.front().from.empty()) {
    InFlight& fed = steps_.front();
    for (size_t i = 0; i < fed.rows.size(); ++i) {
      fed.rows[i].tokens = {all[static_cast<size_t>(fed.from[i])].token};
    }
  }
  return all;
}

}  // namespace limpet::engine
