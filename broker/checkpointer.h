// Copies SQLite's write-ahead log into its database beside the broker's loop, so that no token
// waits for it. Owns a connection and a thread. A checkpoint that fails changes nothing that is
// durable: the log keeps it all, and the next one tries again.
#pragma once
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "broker/sqlite.h"

namespace limpet::broker {

class Checkpointer {
 public:
  explicit Checkpointer(const std::string& path);  // throws StoreError
  ~Checkpointer();                                 // waits for a checkpoint under way
  Checkpointer(const Checkpointer&) = delete;
  Checkpointer& operator=(const Checkpointer&) = delete;

  void wanted();
  // What the thread has found that is not as it was written; empty: nothing.
  std::string damage();  // from any thread; returns at once

 private:
  void run();

  Database db_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool wanted_ = false, stop_ = false;
  std::string damage_;
  std::thread thread_;
};

}  // namespace limpet::broker
