#include "worker/zmq_transport.h"

#include <spdlog/spdlog.h>
#include <zmq.h>

#include <optional>

#include "keys/endpoint.h"
#include "keys/handshake.h"
#include "probes/log_value.h"
#include "schema/wire.h"

namespace limpet::worker {
namespace {

using probes::log_value;

constexpr size_t kMessagesAtOnce = 4096;
constexpr int kLingerMs = 1000;
constexpr int kHighWater = 10000;  // frames on their way
constexpr int kHeartbeatMs = 2000, kHeartbeatTimeoutMs = 6000;
constexpr int kReconnectMs = 50, kReconnectMostMs = 1000;

void set(void* socket, int option, int value) {
  if (zmq_setsockopt(socket, option, &value, sizeof(value)) != 0) {
    throw TransportError(std::string("cannot set up a socket: ") + zmq_strerror(zmq_errno()));
  }
}

}  // namespace

struct ZmqTransport::Impl {
  Impl(const std::string& to, const keys::Identity& identity) : endpoint(to) {
    if (const std::string why = keys::refuse_connecting(endpoint, identity.on()); !why.empty()) {
      throw TransportError(why);
    }
    context = zmq_ctx_new();
    try {
      open(identity);
    } catch (...) {
      close();
      throw;
    }
  }
  ~Impl() { close(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void close() {
    watch.reset();
    if (socket) zmq_close(socket);
    zmq_ctx_term(context);
  }

  void open(const keys::Identity& identity) {
    socket = zmq_socket(context, ZMQ_DEALER);
    if (socket == nullptr) throw TransportError("cannot make a socket");
    set(socket, ZMQ_IMMEDIATE, 1);  // queue for a broker that is there, not for one that may come
    set(socket, ZMQ_LINGER, kLingerMs);
    set(socket, ZMQ_SNDHWM, kHighWater);
    set(socket, ZMQ_RCVHWM, kHighWater);
    set(socket, ZMQ_HEARTBEAT_IVL, kHeartbeatMs);
    set(socket, ZMQ_HEARTBEAT_TIMEOUT, kHeartbeatTimeoutMs);
    set(socket, ZMQ_RECONNECT_IVL, kReconnectMs);
    set(socket, ZMQ_RECONNECT_IVL_MAX, kReconnectMostMs);
    set(socket, ZMQ_IPV6, endpoint.starts_with("tcp://[") ? 1 : 0);
    const auto most = static_cast<int64_t>(Limits::kWorkerFrame);
    zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &most, sizeof(most));
    keys::use(socket, identity);
    watch.emplace(context, socket);
    if (zmq_connect(socket, endpoint.c_str()) != 0) {
      throw TransportError("--broker " + endpoint + " is not understood (" +
                           zmq_strerror(zmq_errno()) +
                           "): write the broker's --backend, as tcp://127.0.0.1:5556");
    }
  }

  // What became of our handshakes; tries again after one that was refused.
  void look_at_handshakes() {
    const auto seen = watch->look();
    if (!seen.refused.empty() && seen.refused != told_refused) {
      spdlog::error("event=handshake_refused broker={} why={}", endpoint, log_value(seen.refused));
      told_refused = seen.refused;
    }
    if (seen.made) told_refused.clear();
    watch->try_again(endpoint);
  }

  // One frame's messages; false when there is none. What is not one part is a bad frame.
  bool take(std::vector<BrokerToWorker>& out) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) < 0) {
      zmq_msg_close(&part);
      return false;
    }
    ++counters.frames_in;
    bool more = zmq_msg_more(&part) != 0;
    wire::DecodeError error{ErrorCode::invalid, "a message of several frames"};
    if (!more) {
      error = wire::decode(
          {static_cast<const std::byte*>(zmq_msg_data(&part)), zmq_msg_size(&part)}, out);
    }
    while (more && zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) >= 0) more = zmq_msg_more(&part) != 0;
    zmq_msg_close(&part);
    if (error.code == ErrorCode::none) return true;
    const int64_t n = ++counters.bad_frames;
    if ((n & (n - 1)) == 0) {  // 1, 2, 4, …: a flood of them does not flood the log
      spdlog::warn("event=bad_frame code={} count={} why={}", name(error.code), n,
                   log_value(error.message));
    }
    return true;
  }

  const std::string endpoint;
  std::optional<keys::Watch> watch;
  std::string told_refused;
  void* context = nullptr;
  void* socket = nullptr;
  bool linked = false;
  Counters counters;
};

ZmqTransport::ZmqTransport(const std::string& endpoint, const keys::Identity& identity)
    : impl_(std::make_unique<Impl>(endpoint, identity)) {}
ZmqTransport::~ZmqTransport() = default;

ZmqTransport::Polled ZmqTransport::poll(std::chrono::milliseconds wait,
                                        std::span<void* const> others) {
  Impl& t = *impl_;
  Polled polled;
  t.look_at_handshakes();
  const auto events = static_cast<short>(t.linked ? ZMQ_POLLIN : ZMQ_POLLIN | ZMQ_POLLOUT);
  std::vector<zmq_pollitem_t> items{{t.socket, 0, events, 0}};
  for (void* other : others) items.push_back({other, 0, ZMQ_POLLIN, 0});
  if (zmq_poll(items.data(), static_cast<int>(items.size()), wait.count()) <= 0) return polled;
  if (!t.linked && (items[0].revents & ZMQ_POLLOUT) != 0) {
    t.linked = polled.new_link = true;
    ++t.counters.links;
  }
  while (polled.messages.size() < kMessagesAtOnce && t.take(polled.messages)) {
  }
  return polled;
}

bool ZmqTransport::send(std::span<const WorkerMessage> messages) {
  Impl& t = *impl_;
  if (messages.empty()) return true;
  if (!t.linked) return false;
  for (const std::string& frame : wire::encode_frames(messages)) {
    if (zmq_send(t.socket, frame.data(), frame.size(), ZMQ_DONTWAIT) < 0) {
      spdlog::warn("event=link_lost why=\"{}\"", zmq_errno() == EAGAIN
                                                     ? "the broker is gone or does not read"
                                                     : zmq_strerror(zmq_errno()));
      t.linked = false;
      ++t.counters.lost_links;
      return false;
    }
    ++t.counters.frames_out;
  }
  return true;
}

bool ZmqTransport::linked() const { return impl_->linked; }
const ZmqTransport::Counters& ZmqTransport::counters() const { return impl_->counters; }

}  // namespace limpet::worker
