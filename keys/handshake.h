// A connection's events as a ZeroMQ monitor tells them, for who connects: made, gone, or refused
// and why. One thread: the socket's.
#pragma once
#include <chrono>
#include <string>

namespace limpet::keys {

// Watches one socket that connects. ZeroMQ gives up for good after a handshake that failed for its
// key or mechanism; a broker that has learned the key since deserves another try, so this tries
// again by itself.
class Watch {
 public:
  // `socket` must live longer. Begins before the socket connects.
  Watch(void* context, void* socket);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void* socket() const { return monitor_; }  // readable when something has happened

  struct Seen {
    bool made = false, gone = false;  // since the last call
    bool connected = false;           // the last of them
    std::string refused;              // the last handshake that failed: why, and what to do
  };
  Seen look();

  // Connects `endpoint` again when a handshake was refused a second ago.
  void try_again(const std::string& endpoint);

 private:
  using Clock = std::chrono::steady_clock;
  void* watched_;
  void* monitor_;
  bool connected_ = false;
  Clock::time_point again_ = Clock::time_point::max();
};

}  // namespace limpet::keys
