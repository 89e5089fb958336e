// silu(gate) * up of bf16 rows whose elements alternate gate, up (GatedLinear's weight, tall).
#pragma once
#include "ops/gpu_isa.cuh"

namespace limpet::ops {
namespace {

__device__ inline float gated(uint32_t gate_up) {
  const float gate = low_bf16(gate_up);
  return gate / (1.0f + __expf(-gate)) * high_bf16(gate_up);
}
// in: bf16 [rows, 2 n], out: bf16 [rows, n]; n a multiple of 4. 8 elements of `in` a thread.
__global__ void gate_rows(const uint16_t* in, uint16_t* out, int rows, int n,
                          const int32_t* count) {
  start_next();
  await_previous();
  const int64_t all = counted_rows(count, rows) * n / 4;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= all) return;
  const uint4 v = reinterpret_cast<const uint4*>(in)[i];
  reinterpret_cast<uint2*>(out)[i] =
      make_uint2(pack_bf16(gated(v.x), gated(v.y)), pack_bf16(gated(v.z), gated(v.w)));
}
inline GpuError launch_gate_rows(const uint16_t* in, uint16_t* out, int rows, int n,
                                 const int32_t* count, const Launch& how) {
  const int64_t threads = int64_t{rows} * n / 4;
  return launch(gate_rows, dim3(static_cast<unsigned>((threads + 255) / 256)), 256, 1, 0, how, in,
                out, rows, n, count);
}

}  // namespace
}  // namespace limpet::ops
