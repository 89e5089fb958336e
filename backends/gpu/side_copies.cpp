#include "backends/gpu/side_copies.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

SideCopies::SideCopies(GpuStream work) : work_(work) {
  for (Way& way : ways_) {
    gpu_check(LIMPET_GPU(StreamCreateWithFlags)(&way.stream, LIMPET_GPU(StreamNonBlocking)),
              "creating a stream for copies");
  }
}

SideCopies::~SideCopies() {
  for (Way& way : ways_) {
    (void)LIMPET_GPU(StreamSynchronize)(way.stream);
    (void)LIMPET_GPU(StreamDestroy)(way.stream);
  }
}

void SideCopies::add(std::byte* device, const SideCopy& copy) {
  added_.push_back({device, copy.host, copy.bytes});
}

std::unique_ptr<Event> SideCopies::event() {
  if (free_.empty()) return std::make_unique<Event>();
  auto one = std::move(free_.back());
  free_.pop_back();
  return one;
}

uint64_t SideCopies::begin(bool to_device) {
  Way& way = ways_[to_device];
  so_far_.record(work_);
  gpu_check(LIMPET_GPU(StreamWaitEvent)(way.stream, so_far_.get(), 0), "ordering copies");
  for (const Copy& c : std::exchange(added_, {})) {
    const auto bytes = static_cast<size_t>(c.bytes);
    gpu_check(to_device
                  ? LIMPET_GPU(MemcpyAsync)(c.device, c.host, bytes,
                                            LIMPET_GPU(MemcpyHostToDevice), way.stream)
                  : LIMPET_GPU(MemcpyAsync)(c.host, c.device, bytes,
                                            LIMPET_GPU(MemcpyDeviceToHost), way.stream),
              "copying beside the work");
  }
  way.begun.push_back({++last_, event()});
  way.begun.back().event->record(way.stream);
  return last_;
}

bool SideCopies::done(uint64_t number) {
  if (number > last_) throw std::logic_error("side copies: such were not begun");
  for (Way& way : ways_) {
    while (!way.begun.empty() && way.begun.front().number <= number) {
      if (!way.begun.front().event->done()) break;
      free_.push_back(std::move(way.begun.front().event));
      way.begun.pop_front();
    }
    if (std::ranges::any_of(way.begun, [&](const Begun& b) { return b.number == number; })) {
      return false;
    }
  }
  return true;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
