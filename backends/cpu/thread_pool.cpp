#include "backends/cpu/thread_pool.h"

#include <hwy/cache_control.h>

#include <algorithm>

namespace limpet {
namespace {

constexpr int kSpins = 2000;  // pauses of some 40 cycles

}  // namespace

ThreadPool::ThreadPool(int threads) : ranges_(static_cast<size_t>(std::max(threads, 1))) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  calls_.fetch_add(1);
  calls_.notify_all();
  for (std::thread& w : workers_) w.join();
}

void ThreadPool::run(int64_t count, Item item, void* task) {
  if (count <= 0) return;
  if (count == 1 || workers_.empty()) {
    for (int64_t i = 0; i < count; ++i) item(task, i, 0);
    return;
  }
  // Closing comes first: a worker that still sees the last ticket fails to take from it once any
  // of the new job can be seen.
  const uint64_t round = (ranges_[0].ticket.load(std::memory_order_relaxed) >> 32) + 1;
  for (Range& range : ranges_) range.ticket.store((round << 32) | kClosed);
  item_.store(item);
  task_.store(task);
  left_.store(count);
  const auto threads = static_cast<int64_t>(ranges_.size());
  for (int64_t t = 0; t < threads; ++t) {
    Range& range = ranges_[static_cast<size_t>(t)];
    range.end.store(count * (t + 1) / threads);
    range.ticket.store(((round + 1) << 32) | static_cast<uint64_t>(count * t / threads));
  }
  calls_.fetch_add(1);
  calls_.notify_all();

  take_items(0);
  for (int i = 0; left_.load() != 0; ++i) {
    if (i < kSpins) {
      hwy::Pause();
    } else if (const int64_t left = left_.load(); left != 0) {
      left_.wait(left);
    }
  }
}

void ThreadPool::take_items(int thread) {
  for (size_t i = 0; i < ranges_.size(); ++i) {
    take_from(ranges_[(static_cast<size_t>(thread) + i) % ranges_.size()], thread);
  }
}

void ThreadPool::take_from(Range& range, int thread) {
  for (uint64_t ticket = range.ticket.load();;) {
    const uint64_t next = ticket & 0xffffffffu;
    const Item item = item_.load();
    void* const task = task_.load();
    if (next == kClosed || static_cast<int64_t>(next) >= range.end.load()) return;
    if (!range.ticket.compare_exchange_weak(ticket, ticket + 1)) continue;
    item(task, static_cast<int64_t>(next), thread);
    if (left_.fetch_sub(1) == 1) left_.notify_all();
    ticket = range.ticket.load();
  }
}

void ThreadPool::wait_for_work(int last_call) {
  for (int i = 0; i < kSpins; ++i) {
    if (calls_.load(std::memory_order_relaxed) != last_call) return;
    hwy::Pause();
  }
  calls_.wait(last_call);
}

void ThreadPool::work(int thread) {
  for (;;) {
    const int call = calls_.load();
    // The last call may be the destructor's: it will not be followed by another.
    if (stop_.load()) return;
    take_items(thread);
    wait_for_work(call);
  }
}

}  // namespace limpet
