#include "backends/gpu/clock.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

Clock::~Clock() {
  for (const Pair& p : pairs_) {
    (void)LIMPET_GPU(EventDestroy)(p.begin);
    (void)LIMPET_GPU(EventDestroy)(p.end);
  }
}

void Clock::start(GpuStream stream) {
  if (pairs_.empty()) {
    pairs_.resize(kPairs);
    for (Pair& p : pairs_) {
      gpu_check(LIMPET_GPU(EventCreate)(&p.begin), "creating an event");
      gpu_check(LIMPET_GPU(EventCreate)(&p.end), "creating an event");
    }
  }
  if (begun_ - counted_ == kPairs) add(pairs_[counted_ % kPairs]);
  gpu_check(LIMPET_GPU(EventRecord)(pairs_[begun_ % kPairs].begin, stream), "timing");
}

void Clock::stop(GpuStream stream) {
  gpu_check(LIMPET_GPU(EventRecord)(pairs_[begun_ % kPairs].end, stream), "timing");
  ++begun_;
}

void Clock::add(const Pair& pair) const {
  float milliseconds = 0;
  gpu_check(LIMPET_GPU(EventSynchronize)(pair.end), "timing");
  gpu_check(LIMPET_GPU(EventElapsedTime)(&milliseconds, pair.begin, pair.end), "timing");
  seconds_ += milliseconds * 1e-3;
  ++counted_;
}

double Clock::seconds() const {
  while (counted_ < begun_) add(pairs_[counted_ % kPairs]);
  return seconds_;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
