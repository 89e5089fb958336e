#include "backends/gpu/decoder_plan.h"

#include "backends/gpu/plan/choose.cuh"
#include "backends/gpu/plan/head.cuh"
#include "backends/gpu/plan/layers.cuh"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

GpuError Plan::launch(size_t step, const std::vector<std::byte*>& data, GpuStream stream) {
  data_ = &data;
  stream_ = stream;
  if (head_ && step == head_->step) return head();
  if (head_ && step == head_->draw) return draw();
  // The rope table's step must have run: the layers go where the last of their steps was.
  return step + 1 == m_.end ? layers() : GpuError{};
}

}  // namespace

std::unique_ptr<DecoderPlan> DecoderPlan::make(const Program& program,
                                               const PlanOptions& options) {
  const auto decoder = match_decoder(program);
  if (!decoder) return nullptr;
  auto plan = std::make_unique<Plan>(program, *decoder, options);
  if (!plan->fits()) return nullptr;
  return plan;
}

bool time_attention(const RowsAttention& shape, const RowsInMemory& at, int processors,
                    GpuStream stream, Clock& clock) {
  const auto whole = [](const std::byte* p) { return reinterpret_cast<const int32_t*>(p); };
  const int rows = static_cast<int>(shape.rows), heads = static_cast<int>(shape.heads);
  const int kv_heads = static_cast<int>(shape.kv_heads), dim = static_cast<int>(shape.head_dim);
  const int max_pages = static_cast<int>(shape.max_pages);
  PagedRows a{reinterpret_cast<const uint16_t*>(at.q), reinterpret_cast<uint16_t*>(at.out),
              reinterpret_cast<const uint16_t*>(at.pool), whole(at.positions),
              whole(at.row_sequence), whole(at.page_table), nullptr, rows, heads, kv_heads, 0,
              static_cast<int>(shape.layers), max_pages, static_cast<int>(shape.window),
              shape.scale};
  if (rows > kFewRows || !split_supports(a, dim)) return false;
  const size_t bytes = split_space_bytes(a, dim);
  const DeviceMemory parts(static_cast<int64_t>(bytes));
  gpu_check(LIMPET_GPU(MemsetAsync)(parts.data(), 0xff, bytes, stream), "clearing memory");
  const SplitSpace space = split_space(parts.data(), a, dim);
  clock.start(stream);
  for (; a.layer < a.layers; ++a.layer) {
    const Launch how{stream, a.layer == 0 ? Start::plain : Start::early};
    gpu_check(launch_split(a, space, dim, processors, how), "attention");
  }
  clock.stop(stream);
  (void)clock.seconds();  // the memory above is in use until then
  return true;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
