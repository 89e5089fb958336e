// The progress bar of a batch. Pure, but for show().
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace limpet::client {

struct ProgressFigures {
  uint64_t answered = 0, failed = 0;  // lines, of this run and earlier ones
  uint64_t now_answered = 0;          // of this run
  uint64_t position = 0, size = 0;    // bytes of the input that are dealt with; size 0: unknown
  uint64_t now_position = 0;          // of this run
  double seconds = 0;                 // since this run began
};

// "[####......] 40%  1234 done  56.7/s  2 failed  0:03:20 left"
std::string progress_line(const ProgressFigures& figures);

// Shows it on a terminal, a few times a second, and is quiet elsewhere.
class Progress {
 public:
  Progress();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void show(ProgressFigures figures, bool last = false);

 private:
  using Clock = std::chrono::steady_clock;
  const bool shown_;
  const Clock::time_point began_ = Clock::now();
  Clock::time_point last_{};
};

}  // namespace limpet::client
