#include "worker/tier_disk.h"

#include <utility>

namespace limpet::worker {

TierDisk::TierDisk(const std::string& folder, int64_t page_bytes, int64_t pages)
    : file_(folder, page_bytes, pages) {
  for (std::thread& thread : threads_) thread = std::thread([this] { run(); });
}

TierDisk::~TierDisk() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  more_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void TierDisk::give(const Task& task) {
  {
    const std::lock_guard lock(mutex_);
    (task.read ? reads_ : writes_).waiting.push_back(task);
  }
  more_.notify_one();
}

std::vector<TierDisk::Done> TierDisk::take() {
  std::vector<Done> all;
  const std::lock_guard lock(mutex_);
  for (Queue* queue : {&reads_, &writes_}) {
    for (auto next = queue->done.find(queue->told); next != queue->done.end();
         next = queue->done.find(++queue->told)) {
      all.push_back(std::move(next->second));
      queue->done.erase(next);
    }
  }
  return all;
}

void TierDisk::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    more_.wait(lock, [this] {
      return stop_ || !reads_.waiting.empty() || !writes_.waiting.empty();
    });
    if (stop_) return;
    Queue& queue = reads_.waiting.empty() ? writes_ : reads_;
    const Task task = queue.waiting.front();
    queue.waiting.pop_front();
    const uint64_t number = queue.begun++;
    lock.unlock();
    std::string error = task.read ? file_.read(task.page, task.memory)
                                  : file_.write(task.page, task.memory);
    lock.lock();
    queue.done[number] = {task.move, std::move(error)};
  }
}

}  // namespace limpet::worker
