#include <algorithm>
#include <cmath>

#include "ops/rope_table/rope_table.h"

namespace limpet::ops {
namespace {

// What the frequencies' base becomes in a sequence of `length` tokens.
double grown_base(const RopeGrowth& g, double length, int64_t n) {
  if (n < 2) return g.theta;  // its one frequency is 1 whatever the base
  const double stretch = g.factor * length / static_cast<double>(g.trained) - (g.factor - 1);
  return g.theta * std::pow(stretch, static_cast<double>(n) / static_cast<double>(n - 1));
}

}  // namespace

void run(const RopeTable& op, CpuContext& cpu, const Args& a) {
  const int32_t* positions = a.in[0].as<int32_t>();
  const float* frequencies = a.in[1].as<float>();
  const TensorView& table = a.out[0];
  const int64_t n = a.in[1].cols();
  cpu.parallel_for(true_rows(a, table.rows()), [&](int64_t r, int) {
    float* row = table.as<float>() + r * table.stride();
    const int64_t length = std::max<int64_t>(int64_t{positions[r]} + 1, op.growth.least);
    const bool grown = op.growth.factor != 0 && length > op.growth.trained;
    const double base = grown ? grown_base(op.growth, static_cast<double>(length), n) : 0;
    for (int64_t i = 0; i < n; ++i) {
      const double exponent = -static_cast<double>(i) / static_cast<double>(n);
      const float f = grown ? static_cast<float>(std::pow(base, exponent)) : frequencies[i];
      const float angle = static_cast<float>(positions[r]) * f;
      row[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      row[n + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  });
}

}  // namespace limpet::ops
