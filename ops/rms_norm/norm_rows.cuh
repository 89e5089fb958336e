// RmsNorm of f32 rows, rounded to bf16 for the products of a prefill. A block for each row.
#pragma once
#include "ops/gpu_isa.cuh"

namespace limpet::ops {
namespace {

struct NormRows {
  const float* x;     // f32 [rows, width], rows x_stride apart (a multiple of 4)
  int64_t x_stride;
  const float* norm;  // [width]
  float eps;
  int rows, width;    // width: a multiple of 4, at most 4 * 8 * 256
  uint16_t* y;        // bf16 [rows, width]
  const int32_t* count;
};
constexpr int kNormThreads = 256, kNormKept = 8;

__global__ void __launch_bounds__(kNormThreads) normalize(const NormRows a) {
  start_next();
  await_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (row >= counted_rows(a.count, a.rows)) return;
  const float* from = a.x + row * a.x_stride;
  float4 kept[kNormKept];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kNormKept; ++i) {
    const int at = (i * kNormThreads + static_cast<int>(threadIdx.x)) * 4;
    kept[i] = at < a.width ? *reinterpret_cast<const float4*>(from + at)
                           : make_float4(0, 0, 0, 0);
    const float4& v = kept[i];
    squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
  }
  const float by = rsqrtf(block_sum(squares) / static_cast<float>(a.width) + a.eps);
#pragma unroll
  for (int i = 0; i < kNormKept; ++i) {
    const int at = (i * kNormThreads + static_cast<int>(threadIdx.x)) * 4;
    if (at >= a.width) continue;
    const float4 w = *reinterpret_cast<const float4*>(a.norm + at);
    const float4& v = kept[i];
    *reinterpret_cast<uint2*>(a.y + int64_t{row} * a.width + at) =
        make_uint2(pack_bf16(v.x * by * w.x, v.y * by * w.y),
                   pack_bf16(v.z * by * w.z, v.w * by * w.w));
  }
}

inline bool norm_rows_supports(int width) {
  return width % 4 == 0 && width <= 4 * kNormKept * kNormThreads;
}
inline GpuError launch_norm_rows(const NormRows& a, const Launch& how) {
  return launch(normalize, dim3(static_cast<unsigned>(a.rows)), kNormThreads, 1, 0, how, a);
}

}  // namespace
}  // namespace limpet::ops
