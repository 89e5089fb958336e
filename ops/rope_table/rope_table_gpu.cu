#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

// What the frequencies' base becomes in a sequence of `length` tokens, as on the CPU.
__device__ double grown_base(const RopeGrowth& g, double length, int64_t n) {
  if (n < 2) return g.theta;  // its one frequency is 1 whatever the base
  const double stretch = g.factor * length / static_cast<double>(g.trained) - (g.factor - 1);
  return g.theta * pow(stretch, static_cast<double>(n) / static_cast<double>(n - 1));
}

__global__ void fill_table(const int32_t* positions, const float* frequencies, float* table,
                           int64_t stride, int64_t rows, int64_t n, const int32_t* count,
                           const RopeGrowth growth) {
  const int64_t r = blockIdx.x;
  if (r >= counted_rows(count, rows)) return;
  const int64_t here = int64_t{positions[r]} + 1;
  const int64_t length = here > growth.least ? here : growth.least;
  const bool grown = growth.factor != 0 && length > growth.trained;
  const double base = grown ? grown_base(growth, static_cast<double>(length), n) : 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double exponent = -static_cast<double>(i) / static_cast<double>(n);
    const float frequency = grown ? static_cast<float>(pow(base, exponent)) : frequencies[i];
    const float angle = __fmul_rn(static_cast<float>(positions[r]), frequency);
    // In double precision: angles reach 10^5, where f32 arithmetic has lost the fraction.
    double sine, cosine;
    sincos(static_cast<double>(angle), &sine, &cosine);
    table[r * stride + i] = static_cast<float>(cosine);
    table[r * stride + n + i] = static_cast<float>(sine);
  }
}

}  // namespace

void run(const RopeTable& op, GpuContext& gpu, const Args& a) {
  const TensorView& table = a.out[0];
  fill_table<<<static_cast<unsigned>(table.rows()), 64, 0, gpu.stream>>>(
      a.in[0].as<int32_t>(), a.in[1].as<float>(), table.as<float>(), table.stride(), table.rows(),
      a.in[1].cols(), a.count, op.growth);
}

}  // namespace limpet::ops
