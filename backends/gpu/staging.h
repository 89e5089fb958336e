// Copies between ordinary host memory and the device that do not wait for each other: through
// rings of pinned pieces, each with an event that tells when the device is done with it.
//
// Driven by the backend's thread, on one stream.
#pragma once
#include <array>
#include <cstdint>

#include "backends/gpu/memory.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(GpuStream stream);
  void wait() const;  // returns at once when nothing was recorded
  bool done() const;  // likewise
  GpuEvent get() const { return event_; }

 private:
  GpuEvent event_{};
};

class Staging {
 public:
  static constexpr size_t kBegun = 4;  // reads begun and not finished, at most

  explicit Staging(GpuStream stream) : stream_(stream) {}

  // `from` may be reused on return; the device sees the bytes in the stream's order.
  void up(std::byte* to, const void* from, int64_t bytes);
  // Waits for the bytes.
  void down(void* to, const std::byte* from, int64_t bytes);
  // False: kBegun are begun already.
  bool begin_down(const std::byte* from, int64_t bytes);
  // Waits for the oldest begun one. False: it is not of so many bytes, or there is none.
  bool finish_down(void* to, int64_t bytes);

 private:
  struct Piece {
    PinnedMemory memory;
    Event done;
    int64_t bytes = 0;
  };
  using GpuMemcpyKind = decltype(LIMPET_GPU(MemcpyHostToDevice));
  void enqueue(void* to, const void* from, int64_t bytes, GpuMemcpyKind kind);
  static void at_least(Piece& piece, int64_t bytes);
  Piece& next(int64_t bytes);

  GpuStream stream_;
  std::array<Piece, 8> ring_;
  size_t at_ = 0;
  std::array<Piece, kBegun> begun_;
  size_t first_begun_ = 0, begun_count_ = 0;
};

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
