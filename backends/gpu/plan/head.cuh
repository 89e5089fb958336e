// A plan's head, and the draws from its logits.
#pragma once
#include "backends/gpu/plan/plan.cuh"
#include "ops/sample/draw_rows.cuh"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

// f32 rows to bf16, for the head; and its rows' bests to nothing, unless null.
__global__ void round_rows(const float* from, uint16_t* to, int64_t rows, int64_t width,
                           const int32_t* count, unsigned long long* bests) {
  const int64_t all = counted_rows(count, rows) * width;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < all) to[i] = as_bf16(from[i]);
  if (bests != nullptr && i < rows) bests[i * kRowSlots] = 0;
}

GpuError Plan::head() {
  const Head& h = *head_;
  const int64_t all = h.rows * m_.hidden;
  const int32_t* count = count_of(h.count);
  const bool finds_best = h.draw && !by_vendor(kHead);
  round_rows<<<static_cast<unsigned>((all + 255) / 256), 256, 0, stream_>>>(
      of<const float>(h.x), at<uint16_t>(rounded_), h.rows, m_.hidden, count,
      finds_best ? at<unsigned long long>(bests_) : nullptr);
  if (const GpuError error = LIMPET_GPU(GetLastError)(); error != GpuError{}) return error;
  if (by_vendor(kHead)) return run_vendor(kHead, rounded_, h.weight, of<void>(h.logits));
  TailArgs t;
  t.rows = static_cast<int>(h.rows), t.count = count;
  t.y = of<float>(h.logits), t.y_stride = h.vocab;
  const ProductInput rounded{at<uint16_t>(rounded_), m_.hidden, nullptr, 0, 0};
  if (!finds_best) return multiply<Tail::store>(kHead, h.weight, rounded, t);
  t.best = at<unsigned long long>(bests_);
  return multiply<Tail::best>(kHead, h.weight, rounded, t);
}

GpuError Plan::draw() {
  const ProgramStep& step = program_.steps[*head_->draw];
  const ProgramValue& context = value(step.inputs[2]);
  DrawRows rows{of<const float>(head_->logits), head_->vocab, static_cast<int32_t>(head_->vocab),
                reinterpret_cast<const DrawSpec*>(of<int32_t>(step.inputs[1])),
                of<uint32_t>(step.inputs[2]), context.shape.rows(),
                reinterpret_cast<DrawnToken*>(of<int32_t>(step.outputs[0])),
                value(step.outputs[0]).shape.rows(), count_of(step.count)};
  if (practice_) rows.draws = practice_->draws, rows.drawn = practice_->drawn, rows.slots = 0;
  if (by_vendor(kHead)) return launch_draws(rows, at<uint64_t>(bests_), stream_);
  return launch_draws(rows, Bests{at<uint64_t>(bests_), 1, kRowSlots, true}, stream_);
}

}  // namespace
}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
