// How long the device has worked between starts and stops on one stream, and how long it had
// nothing of that between a stop and the next start.
#pragma once
#include <cstddef>
#include <vector>

#include "ops/gpu.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

class Clock {
 public:
  Clock() = default;
  ~Clock();
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;

  void start(GpuStream stream);
  void stop(GpuStream stream);
  // Of all pairs so far; waits for the last of them.
  double seconds() const;
  // Of the pairs that are over; waits for nothing.
  struct Spent {
    double busy = 0, idle = 0;
  };
  Spent spent() const;

 private:
  struct Pair {
    GpuEvent begin{}, end{};
  };
  static constexpr size_t kPairs = 64;  // one less in flight; then the oldest is added up
  void add_oldest() const;

  mutable std::vector<Pair> pairs_;
  mutable size_t counted_ = 0, begun_ = 0;  // pairs added up, and pairs begun
  mutable Spent spent_;
};

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
