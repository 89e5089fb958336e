// Who may connect, asked by ZeroMQ for each handshake (ZAP, ZeroMQ RFC 27).
//
// A thread of its own answers; it also reads the allow-list again when the file has changed or
// reload() asks. A list that is wrong is logged with its line, and the one before stays. It fails
// closed: its socket lives as long as this object, so when the thread has ended handshakes wait
// for ever, and failure() says why, which must end the process.
#pragma once
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "broker/allow_list.h"

namespace limpet::broker {

class Authenticator {
 public:
  struct Options {
    std::string file;
    std::chrono::milliseconds look_every{200};  // whether the file has changed
  };

  // Make it before any socket of `context` binds. Throws keys::KeyError: the file cannot be read
  // or is wrong.
  Authenticator(void* context, const Options& options);
  ~Authenticator();  // before the context ends

  // Any thread, all of them.
  std::shared_ptr<const AllowList> list() const;
  uint64_t version() const { return version_; }  // grows with each new list
  void reload() { wanted_ = true; }
  std::string failure() const;  // why the thread has ended; empty while it answers
  std::map<std::string, int64_t> take_refused();  // handshakes since the last call, by reason

 private:
  struct FileState {
    int64_t modified_ns = 0, bytes = -1;
    uint64_t inode = 0;
    bool operator==(const FileState&) const = default;
  };
  void run();
  bool answer_one();
  std::string decide(const std::string& mechanism, const std::string& key, std::string& user);
  void look_at_file();
  std::string read_list();  // what is wrong with it; empty: it is in use
  FileState file_state() const;

  const Options options_;
  void* socket_ = nullptr;
  FileState seen_;
  std::map<std::string, int64_t> refused_ever_;  // the thread's own
  std::atomic<uint64_t> version_{0};
  std::atomic<bool> wanted_{false}, stop_{false};
  mutable std::mutex mutex_;  // guards the three below
  std::shared_ptr<const AllowList> list_;
  std::map<std::string, int64_t> refused_;
  std::string failure_;
  std::thread thread_;
};

}  // namespace limpet::broker
