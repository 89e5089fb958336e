#include <algorithm>

#include "ops/gated_linear/gated_linear.h"
#include "ops/linear/panel.h"
#include "ops/silu_mul/silu_mul_row.h"

namespace limpet::ops {

void run(const GatedLinear&, CpuContext& cpu, const Args& a) {
  const TensorView& y = a.out[0];
  const int64_t rows = true_rows(a, y.rows());
  const PanelProduct product(cpu, a.in[0], rows, a.in[1]);
  if (rows == 0) return;

  cpu.parallel_for(panel_count(Layout::gated, 2 * y.cols()), [&](int64_t panel, int) {
    alignas(64) float sums[kPanelRows * kPanelOutputs];
    const int64_t first = panel * kPanelHalf;
    const auto outputs = static_cast<size_t>(std::min(kPanelHalf, y.cols() - first));
    for (int64_t row = 0; row < rows; row += kPanelRows) {
      const int64_t some = std::min(kPanelRows, rows - row);
      product.multiply(panel, row, some, sums);
      for (int64_t i = 0; i < some; ++i) {
        const float* sum = sums + i * kPanelOutputs;
        silu_mul_row(sum, sum + kPanelHalf, y.as<float>() + (row + i) * y.stride() + first,
                     outputs);
      }
    }
  });
}

}  // namespace limpet::ops
