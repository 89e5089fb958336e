#include "ops/sample/draw_rows.cuh"

namespace limpet::ops {

void run(const Sample&, GpuContext& gpu, const Args& a) {
  const TensorView &logits = a.in[0], &drawn = a.out[0];
  const DrawRows rows{logits.as<float>(), logits.stride(), static_cast<int32_t>(logits.cols()),
                      reinterpret_cast<const DrawSpec*>(a.in[1].as<int32_t>()),
                      a.in[2].as<uint32_t>(), a.in[2].rows(),
                      reinterpret_cast<DrawnToken*>(drawn.as<int32_t>()), drawn.rows(), a.count};
  auto* ranks = static_cast<uint64_t*>(
      gpu.scratch(sizeof(uint64_t) * kParts * static_cast<size_t>(rows.rows)));
  (void)launch_draws(rows, ranks, gpu.stream);  // the caller asks for the last error
}

}  // namespace limpet::ops
