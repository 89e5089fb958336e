// The broker's two ZeroMQ sockets: clients' frames and workers' frames in, frames out.
//
// ROUTER sockets with ROUTER_MANDATORY and DONTWAIT: what cannot be delivered is told, never
// dropped in silence. Every frame is verified by schema/wire before anything of it is used; a bad
// one costs its sender a Refused (a client) or a line in the log (a worker). With keys (CURVE), a
// frame counts for what its sender's key allows at that moment, and a change of the allow-list ends
// what a key that it no longer names was sent. One thread, and the authenticator's.
#pragma once
#include <chrono>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "broker/event.h"

namespace limpet::broker {

// An address that cannot be served. what() is one line that says what to do.
class TransportError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class Delivery : uint8_t {
  sent,
  full,  // the peer does not read; try again later
  gone,  // nobody is there; its id will not be heard of again
};

class ZmqTransport {
 public:
  struct Options {
    std::string frontend, backend;  // endpoints to bind; a tcp port may be * (any free one)
    // Files: the broker's secret key, and the allow-list. Both or neither: then only endpoints that
    // no other machine can reach are taken.
    std::string server_key{}, keys{};
  };
  struct Counters {
    int64_t frames_in = 0, bytes_in = 0, frames_out = 0, bytes_out = 0, bad_frames = 0;
  };

  explicit ZmqTransport(const Options& options);  // throws TransportError, keys::KeyError
  ~ZmqTransport();

  // Waits until something is there or the time is over, then takes of what has come, up to bounds:
  // of each client's a share, the rest the next times. Appends it as events. A signal ends the
  // wait. Throws TransportError when keys can no longer be checked: nothing may go on then.
  void poll(std::chrono::milliseconds wait, std::vector<Event>& out);

  Delivery send(ClientId client, const std::string& frame);
  // A worker that cannot be reached, or does not read, is told by the next poll().
  void send(WorkerId worker, std::span<const BrokerToWorker> messages);

  // As bound, with the port that was chosen.
  std::string frontend() const;
  std::string backend() const;
  const Counters& counters() const;
  void reload_keys();  // reads the allow-list again; it does so by itself when the file changes
  // Connections that were refused since the last call, by reason.
  std::map<std::string, int64_t> take_refused_handshakes();
  // What it has answered with a refusal by itself since the last call.
  std::vector<ErrorCode> take_refused();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace limpet::broker
