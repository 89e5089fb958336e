#include "worker/tier_disk.h"

#include <utility>

namespace limpet::worker {

TierDisk::TierDisk(const std::string& folder, int64_t page_bytes, int64_t pages)
    : file_(folder, page_bytes, pages), thread_([this] { run(); }) {}

TierDisk::~TierDisk() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  more_.notify_one();
  thread_.join();
}

void TierDisk::give(const Task& task) {
  {
    const std::lock_guard lock(mutex_);
    (task.read ? reads_ : writes_).push_back(task);
  }
  more_.notify_one();
}

std::vector<TierDisk::Done> TierDisk::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(done_, {});
}

void TierDisk::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    more_.wait(lock, [this] { return stop_ || !reads_.empty() || !writes_.empty(); });
    if (stop_) return;
    auto& queue = reads_.empty() ? writes_ : reads_;
    const Task task = queue.front();
    queue.pop_front();
    lock.unlock();
    std::string error = task.read ? file_.read(task.page, task.memory)
                                  : file_.write(task.page, task.memory);
    lock.lock();
    done_.push_back({task.move, std::move(error)});
  }
}

}  // namespace limpet::worker
