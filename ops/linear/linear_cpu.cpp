#include <algorithm>

#include "ops/linear/linear.h"
#include "ops/linear/panel.h"

namespace limpet::ops {

void run(const Linear& op, CpuContext& cpu, const Args& a) {
  const TensorView& y = a.out[0];
  const int64_t rows = true_rows(a, y.rows());
  const float* bias = op.bias ? a.in[2].as<float>() : nullptr;
  const TensorView residual = op.residual ? a.in.back() : TensorView{};
  const PanelProduct product(cpu, a.in[0], rows, a.in[1], op.exact);
  if (rows == 0) return;

  cpu.parallel_for(panel_count(Layout::linear, y.cols()), [&](int64_t panel, int) {
    alignas(64) float sums[kPanelRows * kPanelOutputs];
    const int64_t first = panel * kPanelOutputs;
    const int64_t outputs = std::min(kPanelOutputs, y.cols() - first);
    for (int64_t row = 0; row < rows; row += kPanelRows) {
      const int64_t some = std::min(kPanelRows, rows - row);
      product.multiply(panel, row, some, sums);
      for (int64_t i = 0; i < some; ++i) {
        float* sum = sums + i * kPanelOutputs;
        if (bias != nullptr) {
          for (int64_t j = 0; j < outputs; ++j) sum[j] += bias[first + j];
        }
        if (op.residual) {
          const float* add = residual.as<float>() + (row + i) * residual.stride() + first;
          for (int64_t j = 0; j < outputs; ++j) sum[j] += add[j];
        }
        std::copy_n(sum, outputs, y.as<float>() + (row + i) * y.stride() + first);
      }
    }
  });
}

}  // namespace limpet::ops
