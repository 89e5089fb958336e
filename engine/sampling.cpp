#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/sample/philox.h"

namespace limpet::engine {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int64_t kHeapLimit = 1024;  // above, selecting by nth_element is cheaper than a heap

struct Candidate {
  float logit;
  Token id;
  double weight = 0;  // exp((logit - highest) / temperature)
};

bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The highest logit's first index, or why the row cannot be sampled from.
struct Peak {
  Token id = -1;
  float logit = kNever;
  std::string error;
};

Peak peak_of(std::span<const float> logits) {
  Peak peak;
  bool refused = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    refused |= !(logits[i] <= std::numeric_limits<float>::max());  // NaN or +inf
    if (logits[i] > peak.logit) {
      peak.logit = logits[i];
      peak.id = static_cast<Token>(i);
    }
  }
  if (refused) {
    peak.error = "the logits are not finite (NaN or infinity)";
  } else if (peak.id < 0) {
    peak.error = "no token can be drawn: the row is empty or all its logits are -inf";
  }
  return peak;
}

std::vector<float> penalized(std::span<const float> logits, std::span<const Token> context,
                             float penalty) {
  std::vector<float> row(logits.begin(), logits.end());
  std::vector<bool> seen(row.size());
  for (Token t : context) {
    if (t < 0 || static_cast<size_t>(t) >= row.size() || seen[t]) continue;
    seen[t] = true;
    const float moved = row[t] < 0 ? row[t] * penalty : row[t] / penalty;
    row[t] = std::min(moved, std::numeric_limits<float>::max());
  }
  return row;
}

// The k likeliest tokens, in order; fewer when the others are never drawn.
std::vector<Candidate> top_candidates(std::span<const float> logits, int64_t k) {
  std::vector<Candidate> best;
  if (k <= 0) return best;
  const auto n = static_cast<int64_t>(logits.size());
  if (k > kHeapLimit) {
    best.reserve(logits.size());
    for (int64_t i = 0; i < n; ++i) {
      if (logits[i] > kNever) best.push_back({logits[i], static_cast<Token>(i)});
    }
    if (k < static_cast<int64_t>(best.size())) {
      std::nth_element(best.begin(), best.begin() + k, best.end(), likelier);
      best.resize(static_cast<size_t>(k));
    }
    std::sort(best.begin(), best.end(), likelier);
    return best;
  }
  best.reserve(static_cast<size_t>(k));
  for (int64_t i = 0; i < n; ++i) {
    const bool full = static_cast<int64_t>(best.size()) == k;
    // Ids grow, so an equal logit never displaces: the lower id stays.
    if (logits[i] == kNever || (full && logits[i] <= best.front().logit)) continue;
    if (full) {
      std::pop_heap(best.begin(), best.end(), likelier);
      best.pop_back();
    }
    best.push_back({logits[i], static_cast<Token>(i)});
    std::push_heap(best.begin(), best.end(), likelier);  // the least likely is in front
  }
  std::sort_heap(best.begin(), best.end(), likelier);
  return best;
}

double weight_of(float logit, float highest, float temperature) {
  return std::exp((logit - highest) / temperature);
}

// The last of the fewest likeliest candidates that hold `mass`; by halving: linear, no sorting.
Candidate last_within(std::vector<Candidate> candidates, double mass) {
  auto begin = candidates.begin(), end = candidates.end();
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, likelier);
    double sum = 0;
    for (auto c = begin; c != middle; ++c) sum += c->weight;
    if (sum >= mass) {
      end = middle;
    } else {
      mass -= sum;
      begin = middle;
    }
  }
  return *begin;
}

// The tokens that top_k, top_p and min_p leave, in order of id, with their weights.
std::vector<Candidate> kept(std::span<const float> logits, const Peak& peak,
                            const SamplingOptions& o) {
  std::vector<Candidate> candidates;
  double total = 0;
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < logits.size()) {
    candidates = top_candidates(logits, o.top_k);
    for (Candidate& c : candidates) {
      total += c.weight = weight_of(c.logit, peak.logit, o.temperature);
    }
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  } else {
    std::vector<double> weights(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) {
      total += weights[i] = weight_of(logits[i], peak.logit, o.temperature);
    }
    // All tokens below total × (1 - top_p) / n together hold less than 1 - top_p, so top_p keeps
    // none of them. (Half of it: rounding.) What min_p drops needs no sorting either.
    const double below = (1.0 - o.top_p) * total / static_cast<double>(logits.size()) / 2;
    const double least = std::max<double>(below, o.min_p);
    for (size_t i = 0; i < logits.size(); ++i) {
      if (weights[i] > 0 && weights[i] >= least) {
        candidates.push_back({logits[i], static_cast<Token>(i), weights[i]});
      }
    }
  }
  if (o.top_p < 1.0f) {
    const Candidate last = last_within(candidates, o.top_p * total);
    std::erase_if(candidates, [&](const Candidate& c) { return likelier(last, c); });
  }
  std::erase_if(candidates, [&](const Candidate& c) { return c.weight < o.min_p; });
  return candidates;
}

Token draw(std::span<const float> logits, const Peak& peak, const SamplingOptions& o,
           int64_t position) {
  const double u = uniform_draw(o.seed, position);
  const bool filtered = o.top_k > 0 || o.top_p < 1.0f || o.min_p > 0.0f;
  Token last = peak.id;
  double sum = 0;
  if (filtered) {
    const std::vector<Candidate> candidates = kept(logits, peak, o);
    double total = 0;
    for (const Candidate& c : candidates) total += c.weight;
    for (const Candidate& c : candidates) {
      sum += c.weight;
      last = c.id;
      if (sum > u * total) break;
    }
    return last;
  }
  std::vector<double> weights(logits.size());
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    total += weights[i] = weight_of(logits[i], peak.logit, o.temperature);
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    if (weights[i] <= 0) continue;
    sum += weights[i];
    last = static_cast<Token>(i);
    if (sum > u * total) break;
  }
  return last;
}

void tell_logprobs(std::span<const float> logits, const Peak& peak, int32_t count, Sampled& out) {
  double sum = 0;
  for (float l : logits) sum += std::exp(l - peak.logit);
  const double log_sum = std::log(sum);
  const auto logprob = [&](float l) {
    return static_cast<float>(static_cast<double>(l) - peak.logit - log_sum);
  };
  out.logprob = logprob(logits[static_cast<size_t>(out.token)]);
  for (const Candidate& c : top_candidates(logits, count)) {
    out.top.push_back({c.id, logprob(c.logit)});
  }
}

}  // namespace

std::string validate(const SamplingOptions& o) {
  // Written so that NaN fails each.
  if (!(o.temperature >= 0.0f && o.temperature <= 100.0f)) {
    return "temperature must be from 0 (greedy) to 100";
  }
  if (!(o.top_p > 0.0f && o.top_p <= 1.0f)) return "top_p must be above 0 and at most 1";
  if (o.top_k < 0) return "top_k must be 0 (off) or more";
  if (!(o.min_p >= 0.0f && o.min_p <= 1.0f)) return "min_p must be from 0 to 1";
  if (!(o.repetition_penalty >= 0.01f && o.repetition_penalty <= 100.0f)) {
    return "repetition_penalty must be from 0.01 to 100 (1: off)";
  }
  if (o.logprobs < -1 || o.logprobs > SamplingOptions::kMaxLogprobs) {
    return "logprobs must be from -1 (none) to " + std::to_string(SamplingOptions::kMaxLogprobs);
  }
  return "";
}

Sampled sample(std::span<const float> logits, std::span<const Token> context,
               const SamplingOptions& options, int64_t position) {
  Sampled out;
  const Peak given = peak_of(logits);
  if (!given.error.empty()) {
    out.error = given.error;
    return out;
  }
  std::vector<float> changed;
  std::span<const float> row = logits;
  Peak peak = given;
  if (options.repetition_penalty != 1.0f && !context.empty()) {
    changed = penalized(logits, context, options.repetition_penalty);
    row = changed;
    peak = peak_of(row);
    if (!peak.error.empty()) {
      out.error = peak.error;
      return out;
    }
  }
  out.token = options.temperature == 0.0f ? peak.id : draw(row, peak, options, position);
  if (options.logprobs >= 0) tell_logprobs(logits, given, options.logprobs, out);
  return out;
}

double uniform_draw(uint64_t seed, int64_t position) {
  return ops::philox_uniform(seed, position);
}

}  // namespace limpet::engine
