#include "clients/cpp/connection.h"

#include <deque>
#include <stdexcept>
#include <zmq.hpp>

#include "keys/endpoint.h"
#include "keys/handshake.h"
#include "schema/wire.h"

namespace limpet::client {
namespace {

constexpr int kHeartbeatMs = 1000;  // of the transport: the peer's process answers it
constexpr int kHeartbeatTimeoutMs = 4000;
constexpr int kHandshakeMs = 5000;
constexpr int kReconnectMs = 50, kReconnectMaxMs = 1000;
constexpr int kLingerMs = 200;
constexpr int kFramesAtOnce = 256;  // before commands are looked at again

}  // namespace

struct Connection::Sockets {
  zmq::context_t context{1};
  zmq::socket_t dealer{context, zmq::socket_type::dealer};
  keys::Watch watch{context.handle(), dealer.handle()};
  std::deque<std::string> waiting;
};

Connection::Connection(const std::string& endpoint, const keys::Identity& identity, int wake_fd)
    : sockets_(std::make_unique<Sockets>()), endpoint_(endpoint), wake_fd_(wake_fd) {
  if (const std::string why = keys::refuse_connecting(endpoint, identity.on()); !why.empty()) {
    throw std::invalid_argument(why);
  }
  zmq::socket_t& s = sockets_->dealer;
  s.set(zmq::sockopt::linger, kLingerMs);
  s.set(zmq::sockopt::immediate, true);
  s.set(zmq::sockopt::maxmsgsize, static_cast<int64_t>(Limits::kClientFrame));
  s.set(zmq::sockopt::heartbeat_ivl, kHeartbeatMs);
  s.set(zmq::sockopt::heartbeat_timeout, kHeartbeatTimeoutMs);
  s.set(zmq::sockopt::handshake_ivl, kHandshakeMs);
  s.set(zmq::sockopt::reconnect_ivl, kReconnectMs);
  s.set(zmq::sockopt::reconnect_ivl_max, kReconnectMaxMs);
  keys::use(s.handle(), identity);
  try {
    s.connect(endpoint);
  } catch (const zmq::error_t& e) {
    throw std::invalid_argument("\"" + endpoint + "\" is no endpoint (" + e.what() +
                                "); write it like tcp://127.0.0.1:5555 or ipc:///path");
  }
}

Connection::~Connection() = default;

Connection::Arrived Connection::poll(std::chrono::milliseconds timeout) {
  const short out = sockets_->waiting.empty() ? 0 : ZMQ_POLLOUT;
  zmq::pollitem_t items[] = {
      {sockets_->dealer.handle(), 0, static_cast<short>(ZMQ_POLLIN | out), 0},
      {sockets_->watch.socket(), 0, ZMQ_POLLIN, 0},
      {nullptr, wake_fd_, ZMQ_POLLIN, 0}};
  try {
    zmq::poll(items, 3, timeout);
  } catch (const zmq::error_t& e) {
    if (e.num() != EINTR) throw;
  }
  Arrived arrived;
  watch(arrived);
  receive(arrived);
  flush();
  return arrived;
}

void Connection::watch(Arrived& arrived) {
  auto seen = sockets_->watch.look();
  arrived.made = seen.made;
  arrived.broken = seen.gone;
  arrived.refused = std::move(seen.refused);
  connected_ = seen.connected;
  if (seen.made || seen.gone) sockets_->waiting.clear();
  sockets_->watch.try_again(endpoint_);
}

void Connection::receive(Arrived& arrived) {
  zmq::message_t frame;
  for (int n = 0; n < kFramesAtOnce; ++n) {
    if (!sockets_->dealer.recv(frame, zmq::recv_flags::dontwait)) return;
    const std::span bytes(static_cast<const std::byte*>(frame.data()), frame.size());
    const auto error = wire::decode(bytes, arrived.messages);
    if (error.code != ErrorCode::none) arrived.bad_frame = error.message;
  }
}

void Connection::send(const std::vector<ClientMessage>& messages) {
  if (messages.empty() || !connected_) return;
  for (std::string& frame : wire::encode_frames(std::span(messages))) {
    sockets_->waiting.push_back(std::move(frame));
  }
  flush();
}

void Connection::flush() {
  auto& waiting = sockets_->waiting;
  while (!waiting.empty() &&
         sockets_->dealer.send(zmq::buffer(waiting.front()), zmq::send_flags::dontwait)) {
    waiting.pop_front();
  }
}

}  // namespace limpet::client
