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
  if (begun_ - counted_ == kPairs - 1) add_oldest();  // the one before it is kept, for its end
  gpu_check(LIMPET_GPU(EventRecord)(pairs_[begun_ % kPairs].begin, stream), "timing");
}

void Clock::stop(GpuStream stream) {
  gpu_check(LIMPET_GPU(EventRecord)(pairs_[begun_ % kPairs].end, stream), "timing");
  ++begun_;
}

void Clock::add_oldest() const {
  const Pair& pair = pairs_[counted_ % kPairs];
  const auto between = [](GpuEvent from, GpuEvent to) {
    float milliseconds = 0;
    gpu_check(LIMPET_GPU(EventElapsedTime)(&milliseconds, from, to), "timing");
    return milliseconds * 1e-3;
  };
  gpu_check(LIMPET_GPU(EventSynchronize)(pair.end), "timing");
  spent_.busy += between(pair.begin, pair.end);
  if (counted_ > 0) spent_.idle += between(pairs_[(counted_ - 1) % kPairs].end, pair.begin);
  ++counted_;
}

double Clock::seconds() const {
  while (counted_ < begun_) add_oldest();
  return spent_.busy;
}

Clock::Spent Clock::spent() const {
  while (counted_ < begun_) {
    if (LIMPET_GPU(EventQuery)(pairs_[counted_ % kPairs].end) != LIMPET_GPU(Success)) {
      (void)LIMPET_GPU(GetLastError)();  // that it is not over is no error
      break;
    }
    add_oldest();
  }
  return spent_;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
