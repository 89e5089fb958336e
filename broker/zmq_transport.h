// The broker's two ZeroMQ sockets: clients' frames and workers' frames in, frames out.
//
// ROUTER sockets with ROUTER_MANDATORY and DONTWAIT: what cannot be delivered is told, never
// dropped in silence. Every frame is verified by schema/wire before anything of it is used; a bad
// one costs its sender a Refused (a client) or a line in the log (a worker). One thread.
#pragma once
#include <chrono>
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

// Empty when only this machine can reach the endpoint (tcp to loopback, ipc, inproc); otherwise
// one line that says why it is refused: peers are not authenticated.
std::string refuse_endpoint(const std::string& endpoint);

class ZmqTransport {
 public:
  struct Options {
    std::string frontend, backend;  // endpoints to bind; a tcp port may be * (any free one)
  };
  struct Counters {
    int64_t frames_in = 0, bytes_in = 0, frames_out = 0, bytes_out = 0, bad_frames = 0;
  };

  explicit ZmqTransport(const Options& options);  // throws TransportError
  ~ZmqTransport();

  // Waits until something is there or the time is over, then takes what has come, up to a bound;
  // appends it as events. A signal ends the wait.
  void poll(std::chrono::milliseconds wait, std::vector<Event>& out);

  Delivery send(ClientId client, const std::string& frame);
  // A worker that cannot be reached, or does not read, is told by the next poll().
  void send(WorkerId worker, std::span<const BrokerToWorker> messages);

  // As bound, with the port that was chosen.
  std::string frontend() const;
  std::string backend() const;
  const Counters& counters() const;
  // What it has answered with a refusal by itself since the last call.
  std::vector<ErrorCode> take_refused();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace limpet::broker
