// A thread that reads and writes the pages of a TierFile, so that whoever asks need not wait.
// Reads come before writes; among each other both keep their order.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "worker/tier_file.h"

namespace limpet::worker {

class TierDisk {
 public:
  struct Task {
    uint64_t move = 0;  // whose it is
    bool read = false;
    int32_t page = 0;               // of the file
    std::span<std::byte> memory{};  // the thread's until the task is done
  };
  struct Done {
    uint64_t move = 0;
    std::string error;
  };

  TierDisk(const std::string& folder, int64_t page_bytes, int64_t pages);
  ~TierDisk();  // tasks that have not begun are forgotten

  void give(const Task& task);
  std::vector<Done> take();  // what is done since the last call
  TierFile& file() { return file_; }  // for tests; the thread must have nothing to do

 private:
  void run();

  TierFile file_;
  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<Task> reads_, writes_;
  std::vector<Done> done_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace limpet::worker
