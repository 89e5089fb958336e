#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/sample/philox.h"
#include "ops/sample/sample.h"

namespace limpet::ops {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr double kOne = 0x1p40;

struct Candidate {
  float logit = 0;
  int32_t id = 0;
  uint64_t weight = 0;
};

bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

uint64_t weight_of(float exponent) {
  return static_cast<uint64_t>(std::llrint(static_cast<double>(std::exp(exponent)) * kOne));
}

uint64_t sum_of(const std::vector<Candidate>& all) {
  uint64_t sum = 0;
  for (const Candidate& c : all) sum += c.weight;
  return sum;
}

// Sorted by likelihood: the filters each leave a beginning of it.
void keep(std::vector<Candidate>& sorted, const DrawSpec& o, float highest) {
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < sorted.size()) {
    sorted.resize(static_cast<size_t>(o.top_k));
  }
  if (o.top_p < 1.0f) {
    const double mass = static_cast<double>(o.top_p) * static_cast<double>(sum_of(sorted));
    uint64_t sum = 0;
    size_t kept = 0;
    while (kept < sorted.size() && static_cast<double>(sum) < mass) sum += sorted[kept++].weight;
    sorted.resize(std::max<size_t>(kept, 1));
  }
  std::erase_if(sorted, [&](const Candidate& c) {
    return std::exp((c.logit - highest) / o.temperature) < o.min_p;
  });
}

int32_t draw(std::vector<Candidate> sorted, const DrawSpec& o) {
  const float highest = sorted.front().logit;
  if (o.temperature == 0.0f) return sorted.front().id;
  for (Candidate& c : sorted) c.weight = weight_of((c.logit - highest) / o.temperature);
  keep(sorted, o, highest);
  const double u = philox_uniform(o.seed, o.position);
  const auto target = static_cast<uint64_t>(u * static_cast<double>(sum_of(sorted)));
  std::ranges::sort(sorted, {}, &Candidate::id);
  uint64_t sum = 0;
  for (const Candidate& c : sorted) {
    sum += c.weight;
    if (sum > target) return c.id;
  }
  return sorted.back().id;
}

void tell(const std::vector<Candidate>& given, const std::vector<float>& logits, int32_t count,
          DrawnToken& out) {
  const float highest = given.front().logit;
  uint64_t sum = 0;
  for (const float l : logits) sum += weight_of(l - highest);
  const double log_sum = std::log(static_cast<double>(sum) / kOne);
  const auto logprob = [&](float l) {
    return static_cast<float>(static_cast<double>(l) - highest - log_sum);
  };
  out.logprob = logprob(logits[static_cast<size_t>(out.token)]);
  out.told = static_cast<int32_t>(std::min<size_t>(static_cast<size_t>(count), given.size()));
  for (int32_t i = 0; i < out.told; ++i) {
    const Candidate& c = given[static_cast<size_t>(i)];
    out.top[i].token = c.id;
    out.top[i].logprob = logprob(c.logit);
  }
}

void sample_row(const std::vector<float>& logits, const DrawSpec& o, uint32_t* context,
                DrawnToken& out) {
  std::vector<Candidate> given, changed;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float l = logits[i];
    if (!(l <= std::numeric_limits<float>::max())) {
      out.status = DrawStatus::not_finite;
      return;
    }
    if (l == kNever) continue;
    const auto id = static_cast<int32_t>(i);
    given.push_back({l, id, 0});
    const bool seen = context != nullptr && (context[i / 32] >> (i % 32) & 1u) != 0;
    const float moved = l < 0 ? l * o.penalty : l / o.penalty;
    const float capped = std::min(moved, std::numeric_limits<float>::max());
    if (!seen || capped > kNever) changed.push_back({seen ? capped : l, id, 0});
  }
  if (changed.empty()) {
    out.status = DrawStatus::nothing;
    return;
  }
  std::ranges::sort(changed, likelier);
  out.token = draw(std::move(changed), o);
  if (context != nullptr) context[out.token / 32] |= 1u << (out.token % 32);
  if (o.logprobs < 0) return;
  std::ranges::sort(given, likelier);
  tell(given, logits, std::min(o.logprobs, kMostLogprobs), out);
}

}  // namespace

void run(const Sample&, CpuContext& cpu, const Args& a) {
  const TensorView &logits = a.in[0], &context = a.in[2];
  cpu.parallel_for(true_rows(a, a.out[0].rows()), [&](int64_t r, int) {
    const DrawSpec& o = reinterpret_cast<const DrawSpec*>(a.in[1].as<int32_t>())[r];
    DrawnToken out;
    const float* row = logits.as<float>() + r * logits.stride();
    const bool penalized = o.context >= 0 && o.context < context.rows();
    if (o.draws != 0) {
      sample_row({row, row + logits.cols()}, o,
                 penalized ? context.as<uint32_t>() + o.context * context.stride() : nullptr, out);
    }
    reinterpret_cast<DrawnToken*>(a.out[0].as<int32_t>())[r] = out;
  });
}

}  // namespace limpet::ops
