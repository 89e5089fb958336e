// The way between workers over which the KV of sessions goes: one ZeroMQ ROUTER to which givers
// come, and a DEALER for each receiver that this worker gives to.
//
// With keys (CURVE) a receiver lets in only the givers that the broker has announced, each while
// its hand-over lasts, and a giver speaks only to the receiver whose key the broker named. The
// broker knows them for workers' keys: no client's is ever among them.
//
// Frames are verified by schema/wire before anything of them is used. What cannot leave is dropped:
// whoever waits for it asks again. One thread.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "worker/event.h"
#include "worker/zmq_transport.h"

namespace limpet::worker {

class TransferLink {
 public:
  struct Counters {
    int64_t bytes_in = 0, bytes_out = 0;  // of pages
    int64_t damaged = 0, bad_frames = 0, dropped = 0;
    int64_t refused = 0;  // handshakes and frames of who is not expected
  };

  // Binds `endpoint`; empty: nobody can bring anything. Throws TransportError; so it does off
  // loopback without keys.
  explicit TransferLink(const std::string& endpoint, const keys::Identity& identity = {});
  ~TransferLink();

  const std::string& endpoint() const;  // as others reach it; a port chosen by the system filled in
  std::vector<void*> sockets() const;   // to wait on

  // Appends what has come, up to a bound, as FromGiver and FromReceiver. Does not wait.
  void take(std::vector<Event>& out);
  // Who may bring something from now on, by public key.
  void let_in(std::vector<std::string> keys);
  void call(const CallReceiver& command);
  void send(const ToReceiver& command);
  void send(const SendPage& command);  // page.bytes are there
  void send(const ToGiver& command);
  void hang_up(const std::string& endpoint);

  const Counters& counters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace limpet::worker
