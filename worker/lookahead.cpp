#include "worker/lookahead.h"

#include <algorithm>

namespace limpet::worker {

// In order of the rows in flight.
std::vector<Lookahead::Match> Lookahead::match(const Step& step) const {
  std::vector<Match> all;
  if (!ahead_) return all;
  for (size_t g = 0; g < ahead_->size(); ++g) {
    const Guess& guess = (*ahead_)[g];
    const auto row = std::ranges::find_if(step.rows, [&](const StepRow& r) { return guess.is(r); });
    if (row == step.rows.end()) continue;
    all.push_back({static_cast<int32_t>(g), static_cast<size_t>(row - step.rows.begin())});
  }
  return all;
}

std::string Lookahead::submit(const Step& step, const std::vector<size_t>& rows,
                              const SamplingOf& sampling_of) {
  std::vector<engine::DrawRow> draws;
  for (const size_t i : rows) {
    const StepRow& row = step.rows[i];
    draws.push_back({.sequence = row.sequence, .tokens = row.tokens, .draw = {},
                     .position = row.position});
    if (row.sample) draws.back().draw = sampling_of(row);
  }
  return engine_.submit(draws);
}

// None where a row may not or cannot go on; rows that are the last of their job do not.
std::optional<std::vector<Lookahead::Guess>> Lookahead::begin_next(const Step& step,
                                                                   const std::vector<Match>& rows) {
  std::vector<int32_t> from;
  std::vector<Guess> next;
  for (const Match& m : rows) {
    const StepRow& row = step.rows[m.planned];
    if (!row.sample || row.tokens.size() != 1) return std::nullopt;
    if (row.last) continue;
    if (!engine_.kv().reserve(row.sequence, 2)) return std::nullopt;
    from.push_back(m.in_flight);
    next.push_back({row.job, row.attempt, row.sequence, row.position + 1});
  }
  if (from.empty() || !engine_.submit_next(from).empty()) return std::nullopt;
  ++ahead_steps_;
  return next;
}

// The step after rows whose tokens are known, while a later one is in flight still.
std::optional<std::vector<Lookahead::Guess>> Lookahead::begin_after(
    const Step& step, const std::vector<Match>& rows, const Outcome& out,
    const SamplingOf& sampling_of) {
  std::vector<engine::DrawRow> draws;
  std::vector<Guess> next;
  for (const Match& m : rows) {
    const StepRow& row = step.rows[m.planned];
    const engine::Sampled& drawn = out.rows[m.planned];
    if (!row.sample) return std::nullopt;
    if (row.last || !drawn.ok()) continue;
    if (!engine_.kv().reserve(row.sequence, 1)) return std::nullopt;
    draws.push_back({row.sequence, std::span(&drawn.token, 1), sampling_of(row),
                     row.position + 1});
    next.push_back({row.job, row.attempt, row.sequence, row.position + 1});
  }
  if (draws.empty() || !engine_.submit(draws).empty()) return std::nullopt;
  ++ahead_steps_;
  ++after_steps_;
  return next;
}

// Some of them to be continued; one that decodes beside them is better off with the others.
bool Lookahead::only_prompts(const Step& step, const std::vector<Match>& rows) {
  const auto row = [&](const Match& m) -> const StepRow& { return step.rows[m.planned]; };
  return std::ranges::all_of(rows, [&](const Match& m) { return row(m).tokens.size() > 1; }) &&
         std::ranges::any_of(rows, [&](const Match& m) { return !row(m).sample; });
}

void Lookahead::collect(const std::vector<Match>& rows, Outcome& out) {
  std::vector<int32_t> keep;
  for (const Match& m : rows) keep.push_back(m.in_flight);
  auto drawn = engine_.collect(keep);
  for (const Match& m : rows) {
    out.rows[m.planned] = std::move(drawn[static_cast<size_t>(m.in_flight)]);
  }
}

void Lookahead::settle() {
  if (!ahead_) return;
  engine_.collect({});
  wasted_rows_ += std::ssize(*ahead_);
  ahead_.reset();
}

// What has been submitted is in `parts`, also when the next is refused.
std::string Lookahead::submit_rest(const Step& step, const std::vector<size_t>& rest,
                                   const SamplingOf& sampling_of,
                                   std::vector<std::vector<Match>>& parts) {
  std::vector<std::vector<size_t>> groups(2);
  for (const size_t i : rest) {
    const bool prompt = step.rows[i].tokens.size() > 1;
    groups[split_ && !ahead_ && prompt].push_back(i);
  }
  split_steps_ += !groups[0].empty() && !groups[1].empty();
  for (const auto& group : groups) {
    if (group.empty()) continue;
    if (auto error = submit(step, group, sampling_of); !error.empty()) return error;
    auto& part = parts.emplace_back();
    for (size_t i = 0; i < group.size(); ++i) part.push_back({static_cast<int32_t>(i), group[i]});
  }
  return "";
}

Lookahead::Outcome Lookahead::run(const Step& step, const SamplingOf& sampling_of) {
  Outcome out;
  out.rows.resize(step.rows.size());
  const std::vector<Match> guessed = match(step);
  if (guessed.empty()) settle();
  std::vector<size_t> rest;
  for (size_t i = 0; i < step.rows.size(); ++i) {
    if (std::ranges::find(guessed, i, &Match::planned) == guessed.end()) rest.push_back(i);
  }
  std::vector<std::vector<Match>> beside;  // rows of steps that were not begun before
  out.error = submit_rest(step, rest, sampling_of, beside);
  if (!out.error.empty()) {
    settle();
    for (size_t i = 0; i < beside.size(); ++i) engine_.collect({});
    return out;
  }
  // Two steps at most are in flight, so only one that is alone is gone on from.
  std::optional<std::vector<Guess>> next;
  if (beside.empty()) next = begin_next(step, guessed);
  if (guessed.empty() && beside.size() == 1) next = begin_next(step, beside[0]);
  // While a prompt that is not at its end is in flight, those who decode go on by what they drew.
  const bool prompts = split_ && !beside.empty() && only_prompts(step, beside.back());
  if (ahead_) {
    wasted_rows_ += std::ssize(*ahead_) - std::ssize(guessed);
    collect(guessed, out);
    if (prompts) next = begin_after(step, guessed, out, sampling_of);
  }
  for (size_t i = 0; i < beside.size(); ++i) {
    collect(beside[i], out);
    if (prompts && i + 2 == beside.size()) next = begin_after(step, beside[i], out, sampling_of);
  }
  ahead_ = std::move(next);
  return out;
}

}  // namespace limpet::worker
