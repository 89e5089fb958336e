#include <cstring>

#include "ops/gather_rows/gather_rows.h"

namespace limpet::ops {

void run(const GatherRows&, CpuContext& cpu, const Args& a) {
  const TensorView &x = a.in[0], &y = a.out[0];
  const int32_t* wanted = a.in[1].as<int32_t>();
  const int64_t rows = true_rows(a, y.rows());
  for (int64_t r = 0; r < rows; ++r) {
    require(wanted[r] >= 0 && wanted[r] < x.shape[0], "GatherRows", "row outside x");
  }
  cpu.parallel_for(rows, [&](int64_t r, int) {
    std::memcpy(y.as<float>() + r * y.stride(), x.as<float>() + wanted[r] * x.stride(),
                static_cast<size_t>(y.cols()) * sizeof(float));
  });
}

}  // namespace limpet::ops
