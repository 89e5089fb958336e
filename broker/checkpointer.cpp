#include "broker/checkpointer.h"

namespace limpet::broker {

Checkpointer::Checkpointer(const std::string& path) : db_(path), thread_([this] { run(); }) {}

Checkpointer::~Checkpointer() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Checkpointer::wanted() {
  {
    const std::lock_guard lock(mutex_);
    if (wanted_) return;
    wanted_ = true;
  }
  changed_.notify_one();
}

std::string Checkpointer::damage() {
  const std::lock_guard lock(mutex_);
  return damage_;
}

void Checkpointer::run() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return wanted_ || stop_; });
      if (stop_) return;
      wanted_ = false;
    }
    try {
      db_.execute("PRAGMA wal_checkpoint(PASSIVE)");
    } catch (const StoreError&) {  // a full disk, say: the writer meets it too, and tells
      const std::lock_guard lock(mutex_);
      damage_ = db_.damage();
    }
  }
}

}  // namespace limpet::broker
