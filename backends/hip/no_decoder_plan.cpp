#include "backends/gpu/decoder_plan.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

// Its kernels are written for NVIDIA's tensor cores; programs run op by op here.
std::unique_ptr<DecoderPlan> DecoderPlan::make(const Program&, const PlanOptions&) {
  return nullptr;
}

bool time_attention(const RowsAttention&, const RowsInMemory&, int, GpuStream, Clock&) {
  return false;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
