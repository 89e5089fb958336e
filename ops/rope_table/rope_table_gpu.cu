#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

__global__ void fill_table(const int32_t* positions, const float* frequencies, float* table,
                           int64_t stride, int64_t rows, int64_t n, const int32_t* count) {
  const int64_t r = blockIdx.x;
  if (r >= counted_rows(count, rows)) return;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const float angle = __fmul_rn(static_cast<float>(positions[r]), frequencies[i]);
    // In double precision: angles reach 10^5, where f32 arithmetic has lost the fraction.
    double sine, cosine;
    sincos(static_cast<double>(angle), &sine, &cosine);
    table[r * stride + i] = static_cast<float>(cosine);
    table[r * stride + n + i] = static_cast<float>(sine);
  }
}

}  // namespace

void run(const RopeTable&, GpuContext& gpu, const Args& a) {
  const TensorView& table = a.out[0];
  fill_table<<<static_cast<unsigned>(table.rows()), 64, 0, gpu.stream>>>(
      a.in[0].as<int32_t>(), a.in[1].as<float>(), table.as<float>(), table.stride(), table.rows(),
      a.in[1].cols(), a.count);
}

}  // namespace limpet::ops
