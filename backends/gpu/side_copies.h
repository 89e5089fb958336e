// Copies between the device and pinned memory on streams of their own, one for each direction, so
// that they run beside the kernels and beside each other. Driven by the backend's thread.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/gpu/staging.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

class PinnedBuffer final : public HostBuffer {
 public:
  explicit PinnedBuffer(int64_t bytes) : memory_(bytes) {}
  std::span<std::byte> bytes() override {
    return {memory_.data(), static_cast<size_t>(memory_.bytes())};
  }

 private:
  PinnedMemory memory_;
};

class SideCopies {
 public:
  explicit SideCopies(GpuStream work);
  ~SideCopies();  // waits for what has begun
  SideCopies(const SideCopies&) = delete;
  SideCopies& operator=(const SideCopies&) = delete;

  // Adds a copy to those that the next begin() starts.
  void add(std::byte* device, const SideCopy& copy);
  // Behind all that `work` has been given so far.
  uint64_t begin(bool to_device);
  bool done(uint64_t number);

 private:
  struct Begun {
    uint64_t number = 0;
    std::unique_ptr<Event> event;
  };
  struct Way {
    GpuStream stream{};
    std::deque<Begun> begun;
  };
  struct Copy {
    std::byte* device = nullptr;
    std::byte* host = nullptr;
    int64_t bytes = 0;
  };
  std::unique_ptr<Event> event();

  GpuStream work_;
  std::array<Way, 2> ways_;
  std::vector<Copy> added_;
  std::vector<std::unique_ptr<Event>> free_;
  Event so_far_;
  uint64_t last_ = 0;
};

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
