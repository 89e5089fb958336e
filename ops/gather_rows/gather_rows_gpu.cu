#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

constexpr int kThreads = 256;

__global__ void gather(const float* x, int64_t x_stride, int64_t x_rows, const int32_t* wanted,
                       float* y, int64_t y_stride, int64_t rows, int64_t n, const int32_t* count) {
  if (blockIdx.x >= counted_rows(count, rows)) return;
  const int64_t r = blockIdx.x, i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const int64_t from = wanted[r];
  if (i < n && from >= 0 && from < x_rows) y[r * y_stride + i] = x[from * x_stride + i];
}

}  // namespace

void run(const GatherRows&, GpuContext& gpu, const Args& a) {
  const TensorView &x = a.in[0], &y = a.out[0];
  const dim3 grid(static_cast<unsigned>(y.rows()),
                  static_cast<unsigned>((y.cols() + kThreads - 1) / kThreads));
  gather<<<grid, kThreads, 0, gpu.stream>>>(x.as<float>(), x.stride(), x.rows(),
                                            a.in[1].as<int32_t>(), y.as<float>(), y.stride(),
                                            y.rows(), y.cols(), a.count);
}

}  // namespace limpet::ops
