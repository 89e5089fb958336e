// Threads that stay, for work that comes in short pieces back to back.
//
// A worker looks for work for some tens of microseconds after the last, then sleeps until called.
// The caller works too and takes what sleeping or preempted workers do not, so a busy machine
// makes a job slower but never waits for a thread that has not begun.
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
  // (round << 32) | next item to take, or kClosed while a job is being replaced.
  static constexpr uint64_t kClosed = 0xffffffffu;

  void work(int thread);
  void take_items(int thread);
  void wait_for_work(int last_call);

  std::atomic<uint64_t> ticket_{kClosed};
  std::atomic<int64_t> count_{0}, left_{0};
  std::atomic<Item> item_{nullptr};
  std::atomic<void*> task_{nullptr};
  std::atomic<int> calls_{0};  // grows with each job: what sleepers wait on
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace limpet
