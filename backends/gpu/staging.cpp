#include "backends/gpu/staging.h"

#include <algorithm>
#include <cstring>

#include "backends/gpu/copy_words.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

constexpr int64_t kPieceBytes = 8 << 20;  // longer copies go in pieces of this size
constexpr int64_t kSmallest = 64 << 10;

}  // namespace

Event::Event() {
  gpu_check(LIMPET_GPU(EventCreateWithFlags)(&event_, LIMPET_GPU(EventDisableTiming)),
            "creating an event");
}
Event::~Event() { (void)LIMPET_GPU(EventDestroy)(event_); }
void Event::record(GpuStream stream) {
  gpu_check(LIMPET_GPU(EventRecord)(event_, stream), "recording an event");
}
void Event::wait() const {
  gpu_check(LIMPET_GPU(EventSynchronize)(event_), "waiting for the device");
}

bool Event::done() const {
  const GpuError error = LIMPET_GPU(EventQuery)(event_);
  if (error == LIMPET_GPU(ErrorNotReady)) {
    (void)LIMPET_GPU(GetLastError)();  // it is no failure
    return false;
  }
  gpu_check(error, "asking whether the device is done");
  return true;
}

void Staging::enqueue(void* to, const void* from, int64_t bytes, GpuMemcpyKind kind) {
  if (copy_words(to, from, bytes, stream_)) {
    gpu_check(LIMPET_GPU(GetLastError)(), "copying a few words");
  } else if (bytes > 0) {
    gpu_check(LIMPET_GPU(MemcpyAsync)(to, from, static_cast<size_t>(bytes), kind, stream_),
              "copying between host and device");
  }
}

void Staging::at_least(Piece& piece, int64_t bytes) {
  if (piece.memory.bytes() < bytes) piece.memory = PinnedMemory(std::max(bytes, kSmallest));
  piece.bytes = bytes;
}

Staging::Piece& Staging::next(int64_t bytes) {
  Piece& piece = ring_[at_];
  at_ = (at_ + 1) % ring_.size();
  piece.done.wait();
  at_least(piece, bytes);
  return piece;
}

void Staging::up(std::byte* to, const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += kPieceBytes) {
    const auto some = static_cast<size_t>(std::min(kPieceBytes, bytes - at));
    Piece& piece = next(static_cast<int64_t>(some));
    std::memcpy(piece.memory.data(), static_cast<const std::byte*>(from) + at, some);
    enqueue(to + at, piece.memory.data(), static_cast<int64_t>(some),
            LIMPET_GPU(MemcpyHostToDevice));
    piece.done.record(stream_);
  }
}

void Staging::down(void* to, const std::byte* from, int64_t bytes) {
  // Two pieces in turn: one is emptied while the other is filled.
  std::array<Piece*, 2> pieces{};
  for (int64_t at = 0, turn = 0; at < bytes + kPieceBytes; at += kPieceBytes, ++turn) {
    if (at < bytes) {
      const int64_t some = std::min(kPieceBytes, bytes - at);
      Piece& piece = next(some);
      enqueue(piece.memory.data(), from + at, some, LIMPET_GPU(MemcpyDeviceToHost));
      piece.done.record(stream_);
      pieces[static_cast<size_t>(turn % 2)] = &piece;
    }
    const int64_t before = at - kPieceBytes;
    if (before < 0 || before >= bytes) continue;
    const Piece& filled = *pieces[static_cast<size_t>((turn + 1) % 2)];
    filled.done.wait();
    std::memcpy(static_cast<std::byte*>(to) + before, filled.memory.data(),
                static_cast<size_t>(filled.bytes));
  }
}

bool Staging::begin_down(const std::byte* from, int64_t bytes) {
  if (begun_count_ == kBegun) return false;
  Piece& piece = begun_[(first_begun_ + begun_count_) % kBegun];
  at_least(piece, bytes);
  enqueue(piece.memory.data(), from, bytes, LIMPET_GPU(MemcpyDeviceToHost));
  piece.done.record(stream_);
  ++begun_count_;
  return true;
}

bool Staging::finish_down(void* to, int64_t bytes) {
  const Piece& piece = begun_[first_begun_];
  if (begun_count_ == 0 || piece.bytes != bytes) return false;
  piece.done.wait();
  if (bytes > 0) std::memcpy(to, piece.memory.data(), static_cast<size_t>(bytes));
  first_begun_ = (first_begun_ + 1) % kBegun;
  --begun_count_;
  return true;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
