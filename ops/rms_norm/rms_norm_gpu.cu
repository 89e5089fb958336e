#include <algorithm>

#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

// One block a slice. Its size follows from n alone, so a row's bits depend on that row alone.
__global__ void __launch_bounds__(kMostThreads)
    norm_slices(const float* x, int64_t x_stride, const float* weight, float* y,
                            int64_t y_stride, int64_t rows, int64_t heads, int64_t n, float eps,
                            const int32_t* count) {
  const int64_t r = blockIdx.x / heads, h = blockIdx.x % heads;
  if (r >= counted_rows(count, rows)) return;
  const float* from = x + r * x_stride + h * n;
  float* to = y + r * y_stride + h * n;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += from[i] * from[i];
  const float mean = block_sum(sum) / static_cast<float>(n);
  const float scale = 1.0f / sqrtf(mean + eps);
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) to[i] = from[i] * scale * weight[i];
}

}  // namespace

void run(const RmsNorm& op, GpuContext& gpu, const Args& a) {
  const TensorView &x = a.in[0], &y = a.out[0];
  const int64_t n = a.in[1].cols();
  const auto threads =
      static_cast<unsigned>(std::clamp<int64_t>((n + 255) / 256 * 64, 64, kMostThreads));
  norm_slices<<<static_cast<unsigned>(y.rows() * op.heads), threads, 0, gpu.stream>>>(
      x.as<float>(), x.stride(), a.in[1].as<float>(), y.as<float>(), y.stride(), y.rows(),
      op.heads, n, op.eps, a.count);
}

}  // namespace limpet::ops
