#include "ops/linear/product.cuh"
#include "ops/silu_mul/silu.cuh"

namespace limpet::ops {
namespace {

constexpr int kThreads = 256;

// both [rows, 2 n]: gate and up of each output beside each other.
__global__ void gate_pairs(const float* both, float* y, int64_t y_stride, int64_t rows, int64_t n,
                           const int32_t* count) {
  if (blockIdx.x >= counted_rows(count, rows)) return;
  const int64_t r = blockIdx.x, i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (i < n) y[r * y_stride + i] = silu_mul(both[(r * n + i) * 2], both[(r * n + i) * 2 + 1]);
}

}  // namespace

void run(const GatedLinear&, GpuContext& gpu, const Args& a) {
  const TensorView &x = a.in[0], &weight = a.in[1], &y = a.out[0];
  const int64_t n = y.cols(), rows = y.rows();
  auto* both = static_cast<float*>(gpu.scratch(static_cast<size_t>(rows * 2 * n) * sizeof(float)));
  const Product product{.x = x.as<float>(),
                        .x_stride = x.stride(),
                        .weight = weight.data,
                        .rows = rows,
                        .n = 2 * n,
                        .k = x.cols(),
                        .y = both,
                        .y_stride = 2 * n,
                        .bias = nullptr,
                        .residual = nullptr,
                        .residual_stride = 0,
                        .count = a.count,
                        .exact = false};
  multiply(gpu, product, weight.dtype);
  const auto across = static_cast<unsigned>((n + kThreads - 1) / kThreads);
  const dim3 grid(static_cast<unsigned>(rows), across);
  gate_pairs<<<grid, kThreads, 0, gpu.stream>>>(both, y.as<float>(), y.stride(), rows, n, a.count);
}

}  // namespace limpet::ops
