// Threads that stay, for work that comes in short pieces back to back.
//
// A worker looks for work for some tens of microseconds after the last, then sleeps until called.
// Each thread begins with a range of items of its own, in order, so that what it streams from
// memory is contiguous; then it takes what others have not begun. The caller works too, so a busy
// machine makes a job slower but never waits for a thread that sleeps or is preempted.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace limpet {

class ThreadPool {
 public:
  using Item = void (*)(void* task, int64_t item, int thread);

  explicit ThreadPool(int threads);  // the caller's included; at least 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // Calls item(task, i, thread) once for each i in [0, count), count below 2^31, and returns when
  // all are done; what they wrote is visible to the caller. One caller at a time; items must not
  // throw nor call run().
  void run(int64_t count, Item item, void* task);

 private:
  static constexpr uint64_t kClosed = 0xffffffffu;

  // Items of a job that one thread begins with.
  struct alignas(64) Range {
    std::atomic<uint64_t> ticket{kClosed};  // (round << 32) | next item, or kClosed between jobs
    std::atomic<int64_t> end{0};
  };

  void work(int thread);
  void take_items(int thread);
  void take_from(Range& range, int thread);
  void wait_for_work(int last_call);

  std::vector<Range> ranges_;
  alignas(64) std::atomic<int64_t> left_{0};
  std::atomic<Item> item_{nullptr};
  std::atomic<void*> task_{nullptr};
  std::atomic<int> calls_{0};  // grows with each job: what sleepers wait on
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace limpet
