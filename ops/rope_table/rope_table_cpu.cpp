#include <cmath>

#include "ops/rope_table/rope_table.h"

namespace limpet::ops {

void run(const RopeTable&, CpuContext& cpu, const Args& a) {
  const int32_t* positions = a.in[0].as<int32_t>();
  const float* frequencies = a.in[1].as<float>();
  const TensorView& table = a.out[0];
  const int64_t n = a.in[1].cols();
  cpu.parallel_for(true_rows(a, table.rows()), [&](int64_t r, int) {
    float* row = table.as<float>() + r * table.stride();
    for (int64_t i = 0; i < n; ++i) {
      const float angle = static_cast<float>(positions[r]) * frequencies[i];
      row[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      row[n + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  });
}

}  // namespace limpet::ops
