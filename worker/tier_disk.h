// Threads that read and write the pages of a TierFile, so that whoever asks need not wait, and one
// that waits for the disk or sums up a page holds up no other. Reads come before writes; what is
// done is told in the order in which it was asked for, reads and writes each for themselves.
#pragma once
#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
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
    int32_t page = 0;               // of the file; no other task's until this one is done
    std::span<std::byte> memory{};  // likewise
  };
  struct Done {
    uint64_t move = 0;
    std::string error;
  };

  TierDisk(const std::string& folder, int64_t page_bytes, int64_t pages);
  ~TierDisk();  // tasks that have not begun are forgotten

  void give(const Task& task);
  std::vector<Done> take();  // what is done since the last call
  TierFile& file() { return file_; }  // for tests; the threads must have nothing to do

 private:
  static constexpr size_t kThreads = 4;
  struct Queue {
    std::deque<Task> waiting;
    uint64_t begun = 0, told = 0;  // tasks, in order
    std::map<uint64_t, Done> done;
  };
  void run();

  TierFile file_;
  std::mutex mutex_;
  std::condition_variable more_;
  Queue reads_, writes_;
  bool stop_ = false;
  std::array<std::thread, kThreads> threads_;  // last: they use the rest
};

}  // namespace limpet::worker
