// The client's socket to the broker: a DEALER with its monitor, owned by one thread.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "keys/keys.h"
#include "schema/messages.h"

namespace limpet::client {

class Connection {
 public:
  // Begins to connect, and goes on doing so. Throws std::invalid_argument for an endpoint that
  // is none, or that is on another machine and `identity` is none. `wake_fd`, when readable, ends
  // a poll.
  Connection(const std::string& endpoint, const keys::Identity& identity, int wake_fd);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  struct Arrived {
    bool made = false;    // a (new) connection stands: what was sent before may be lost
    bool broken = false;  // it is gone
    std::string refused;  // why the last try came to nothing, when the broker was there
    std::vector<BrokerToClient> messages;
    std::string bad_frame;  // why a frame could not be read
  };
  // Waits for the wake, a frame or a change of the connection, at most this long.
  Arrived poll(std::chrono::milliseconds timeout);

  // Queues; what cannot leave now leaves in later polls. Without a connection it is dropped:
  // whoever asks, asks again when one is made.
  void send(const std::vector<ClientMessage>& messages);

  bool connected() const { return connected_; }

 private:
  struct Sockets;
  void watch(Arrived& arrived);
  void receive(Arrived& arrived);
  void flush();

  std::unique_ptr<Sockets> sockets_;
  const std::string endpoint_;
  int wake_fd_;
  bool connected_ = false;
};

}  // namespace limpet::client
