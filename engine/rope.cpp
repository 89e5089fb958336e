#include "engine/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ops/dtype.h"

namespace limpet::engine {
namespace {

double llama3_frequency(const RopeConfig& rope, double f) {
  const double turns = rope.original_context * f / (2.0 * std::numbers::pi);
  const double span = rope.high_freq_factor - rope.low_freq_factor;
  const double smooth = std::clamp((turns - rope.low_freq_factor) / span, 0.0, 1.0);
  return (1.0 - smooth) * f / rope.factor + smooth * f;
}

// Dimensions below the ramp keep their frequency, those above are divided by factor.
struct YarnRamp {
  double low = 0, high = 0;

  YarnRamp(const RopeConfig& rope, int64_t head_dim) {
    const auto dim = static_cast<double>(head_dim);
    const auto dimension_of = [&](double turns) {
      return dim * std::log(rope.original_context / (turns * 2.0 * std::numbers::pi)) /
             (2.0 * std::log(rope.theta));
    };
    low = dimension_of(rope.beta_fast);
    high = dimension_of(rope.beta_slow);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, dim - 1);
    if (low == high) high += 0.001;
  }
  double operator()(double i) const { return std::clamp((i - low) / (high - low), 0.0, 1.0); }
};

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<float> out(static_cast<size_t>(head_dim / 2));
  const bool yarn = rope.kind == RopeKind::yarn;
  const YarnRamp ramp(yarn ? rope : RopeConfig{.theta = 2, .original_context = 1}, head_dim);
  for (size_t i = 0; i < out.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    double f = 1.0 / std::pow(rope.theta, exponent);
    if (rope.kind == RopeKind::linear) f /= rope.factor;
    if (rope.kind == RopeKind::llama3) f = llama3_frequency(rope, f);
    if (yarn) {
      const double share = ramp(static_cast<double>(i));
      f = f / rope.factor * share + f * (1.0 - share);
    }
    const auto exact = static_cast<float>(f);
    out[i] = rope.bf16_frequencies ? f32_from_bf16(bf16_from_f32(exact)) : exact;
  }
  return out;
}

double yarn_attention_factor(double factor, double mscale, double mscale_all_dim) {
  const auto of = [&](double scale) {
    return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
  };
  return mscale > 0 && mscale_all_dim > 0 ? of(mscale) / of(mscale_all_dim) : of(1.0);
}

}  // namespace limpet::engine
