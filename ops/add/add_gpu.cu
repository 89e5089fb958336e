#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

constexpr int kThreads = 256;

__global__ void add_rows(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                         float* y, int64_t y_stride, int64_t rows, int64_t n,
                         const int32_t* count) {
  if (blockIdx.x >= counted_rows(count, rows)) return;
  const int64_t r = blockIdx.x, i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (i < n) y[r * y_stride + i] = a[r * a_stride + i] + b[r * b_stride + i];
}

}  // namespace

void run(const Add&, GpuContext& gpu, const Args& args) {
  const TensorView &a = args.in[0], &b = args.in[1], &y = args.out[0];
  const dim3 grid(static_cast<unsigned>(y.rows()),
                  static_cast<unsigned>((y.cols() + kThreads - 1) / kThreads));
  add_rows<<<grid, kThreads, 0, gpu.stream>>>(a.as<float>(), a.stride(), b.as<float>(), b.stride(),
                                              y.as<float>(), y.stride(), y.rows(), y.cols(),
                                              args.count);
}

}  // namespace limpet::ops
