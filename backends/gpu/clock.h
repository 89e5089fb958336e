// How long the device has worked between starts and stops on one stream.
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

 private:
  struct Pair {
    GpuEvent begin{}, end{};
  };
  static constexpr size_t kPairs = 64;  // in flight; then the oldest is added up
  void add(const Pair& pair) const;

  mutable std::vector<Pair> pairs_;
  mutable size_t counted_ = 0, begun_ = 0;  // pairs added up, and pairs begun
  mutable double seconds_ = 0;
};

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
