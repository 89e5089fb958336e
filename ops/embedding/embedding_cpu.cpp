#include <cstring>

#include "ops/embedding/embedding.h"
#include "ops/linear/panel.h"

namespace limpet::ops {
namespace {

void copy_row(const TensorView& table, int64_t row, float* x) {
  const int64_t n = table.cols();
  if (table.layout == Layout::linear) {
    unpack_row(table, row, x);
  } else if (table.dtype == DType::f32) {
    std::memcpy(x, table.as<float>() + row * n, static_cast<size_t>(n) * sizeof(float));
  } else {
    const uint16_t* from = table.as<uint16_t>() + row * n;
    for (int64_t i = 0; i < n; ++i) x[i] = f32_from_bf16(from[i]);
  }
}

}  // namespace

void run(const Embedding&, CpuContext& cpu, const Args& a) {
  const int32_t* ids = a.in[0].as<int32_t>();
  const TensorView &table = a.in[1], &x = a.out[0];
  const int64_t rows = true_rows(a, x.rows());
  for (int64_t r = 0; r < rows; ++r) {
    require(ids[r] >= 0 && ids[r] < table.shape[0], "Embedding", "token id outside the table");
  }
  cpu.parallel_for(
      rows, [&](int64_t r, int) { copy_row(table, ids[r], x.as<float>() + r * x.stride()); });
}

}  // namespace limpet::ops
