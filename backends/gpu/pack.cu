#include "backends/gpu/pack.h"

#include "ops/warp.cuh"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;

__device__ float f32_of_f16(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t exponent = (value >> 10) & 0x1fu, mantissa = value & 0x3ffu;
  if (exponent == 0x1fu) return __uint_as_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return __uint_as_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  const float tiny = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -tiny : tiny;
}

__device__ float element(const void* from, DType dtype, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(from)[i];
  const uint16_t half = static_cast<const uint16_t*>(from)[i];
  return dtype == DType::f16 ? f32_of_f16(half) : ops::as_float(half);
}

__global__ void pack_row(PackRows p) {
  for (int64_t r = blockIdx.x; r < p.rows; r += gridDim.x) {
    const int64_t to = (p.first_row + r * p.row_step) * p.stride;
    for (int64_t i = threadIdx.x; i < p.cols; i += kThreads) {
      const float v = element(p.from, p.from_dtype, r * p.cols + i);
      if (p.to_dtype == DType::f32) {
        static_cast<float*>(p.to)[to + i] = v;
      } else {
        static_cast<uint16_t*>(p.to)[to + i] = ops::as_bf16(v);
      }
    }
  }
}

}  // namespace

void pack_rows(const PackRows& pack, GpuStream stream) {
  if (pack.rows == 0 || pack.cols == 0) return;
  const auto blocks = static_cast<unsigned>(pack.rows < 65536 ? pack.rows : 65536);
  pack_row<<<blocks, kThreads, 0, stream>>>(pack);
  gpu_check(LIMPET_GPU(GetLastError)(), "packing weights");
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
