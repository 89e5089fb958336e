// The worker's way to the broker: one ZeroMQ DEALER that connects and connects again by itself.
//
// Frames are verified by schema/wire before anything of them is used. Nothing is dropped in
// silence: what cannot leave (nobody is there, or the broker does not read) breaks the link, all
// further sends are refused, and once frames can leave again poll() tells a new link. The worker
// then registers again, and the protocol has said anew what was lost. One thread.
#pragma once
#include <chrono>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "keys/keys.h"
#include "schema/messages.h"

namespace limpet::worker {

// An endpoint that cannot be used. what() is one line that says what to do.
class TransportError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class ZmqTransport {
 public:
  struct Counters {
    int64_t frames_in = 0, frames_out = 0, bad_frames = 0, links = 0, lost_links = 0;
  };

  // Throws TransportError; so it does for a broker on another machine without keys.
  explicit ZmqTransport(const std::string& endpoint, const keys::Identity& identity = {});
  ~ZmqTransport();  // frames that have been given to it get a second to leave

  struct Polled {
    bool new_link = false;  // the broker can be reached (again): register
    std::vector<BrokerToWorker> messages;
  };
  // Waits until something is there, a link is made, or the time is over; takes what has come, up
  // to a bound. A signal ends the wait.
  // Something at one of these other ZeroMQ sockets ends the wait too; it is not taken here.
  Polled poll(std::chrono::milliseconds wait, std::span<void* const> others = {});

  // Whether they left. One frame, or as many as the limits ask for.
  bool send(std::span<const WorkerMessage> messages);

  bool linked() const;
  const Counters& counters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace limpet::worker
