#include "worker/transfer_link.h"

#include <spdlog/spdlog.h>
#include <zmq.h>

#include <map>
#include <span>
#include <utility>

#include "schema/wire.h"

namespace limpet::worker {
namespace {

constexpr int kLingerMs = 1000;
constexpr int kHighWater = 1024;  // frames of one peer
constexpr int kHeartbeatMs = 2000, kHeartbeatTimeoutMs = 6000;
constexpr size_t kFramesAtOnce = 64;
constexpr int64_t kBytesAtOnce = 32 << 20;

void set(void* socket, int option, int value) {
  if (zmq_setsockopt(socket, option, &value, sizeof(value)) != 0) {
    throw TransportError(std::string("cannot set up a socket: ") + zmq_strerror(zmq_errno()));
  }
}

// The one place where keys are set on either side's sockets. Without keys nobody but this machine
// may reach, or be reached over, them.
void secure(void*, const std::string& endpoint) {
  const auto at = [&](const char* where) { return endpoint.starts_with(where); };
  const bool local =
      at("ipc://") || at("tcp://127.") || at("tcp://[::1]:") || at("tcp://localhost:");
  if (local) return;
  throw TransportError("--transfer " + endpoint +
                       " can be reached from other machines, and keys are required off loopback;"
                       " use tcp://127.0.0.1:* or ipc://");
}

// One received part.
class Part {
 public:
  Part() { zmq_msg_init(&message_); }
  ~Part() { zmq_msg_close(&message_); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  bool receive(void* socket) { return zmq_msg_recv(&message_, socket, ZMQ_DONTWAIT) >= 0; }
  bool more() const { return zmq_msg_more(&message_) != 0; }
  std::string_view text() {
    return {static_cast<const char*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
  }
  std::span<const std::byte> bytes() { return std::as_bytes(std::span(text())); }

 private:
  zmq_msg_t message_;
};

}  // namespace

struct TransferLink::Impl {
  ~Impl() {
    for (const auto& [name, socket] : receivers) zmq_close(socket);
    if (router) zmq_close(router);
    zmq_ctx_term(context);
  }

  void* open(int type, const std::string& endpoint) {
    void* socket = zmq_socket(context, type);
    if (socket == nullptr) throw TransportError("cannot make a socket");
    try {
      secure(socket, endpoint);
      set(socket, ZMQ_LINGER, kLingerMs);
      set(socket, ZMQ_SNDHWM, kHighWater);
      set(socket, ZMQ_RCVHWM, kHighWater);
      set(socket, ZMQ_HEARTBEAT_IVL, kHeartbeatMs);
      set(socket, ZMQ_HEARTBEAT_TIMEOUT, kHeartbeatTimeoutMs);
      set(socket, ZMQ_IPV6, endpoint.starts_with("tcp://[") ? 1 : 0);
      const auto most = static_cast<int64_t>(Limits::kWorkerFrame);
      zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &most, sizeof(most));
      const int failed = type == ZMQ_ROUTER ? zmq_bind(socket, endpoint.c_str())
                                            : zmq_connect(socket, endpoint.c_str());
      if (failed != 0) {
        throw TransportError("cannot use --transfer " + endpoint + ": " +
                             zmq_strerror(zmq_errno()));
      }
    } catch (...) {
      zmq_close(socket);
      throw;
    }
    return socket;
  }

  void bind(const std::string& endpoint) {
    router = open(ZMQ_ROUTER, endpoint);
    char text[256];
    size_t size = sizeof(text);
    if (zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, text, &size) == 0) bound = text;
  }

  // Null when the endpoint that the broker named is none.
  void* receiver(const std::string& endpoint) {
    if (const auto it = receivers.find(endpoint); it != receivers.end()) return it->second;
    try {
      return receivers[endpoint] = open(ZMQ_DEALER, endpoint);
    } catch (const TransportError& e) {
      spdlog::warn("event=transfer_failed endpoint={} why=\"{}\"", endpoint, e.what());
      receivers.erase(endpoint);
      return nullptr;
    }
  }

  void put(void* socket, const std::string& frame, const std::string* peer = nullptr) {
    if (socket == nullptr) return;
    if (peer && zmq_send(socket, peer->data(), peer->size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
      ++counters.dropped;
      return;
    }
    if (zmq_send(socket, frame.data(), frame.size(), ZMQ_DONTWAIT) < 0) ++counters.dropped;
  }

  void bad(const wire::DecodeError& error) {
    const int64_t n = ++counters.bad_frames;
    if ((n & (n - 1)) == 0) {
      spdlog::warn("event=bad_frame link=transfer code={} count={} why=\"{}\"", name(error.code), n,
                   error.message);
    }
  }

  // One frame's messages; false when there is none.
  template <typename M, typename Tell>
  bool take_frame(void* socket, bool routed, Tell tell) {
    Part first, frame;
    if (!first.receive(socket)) return false;
    if (routed && !(first.more() && frame.receive(socket))) return true;
    Part& body = routed ? frame : first;
    wire::DecodeError error{ErrorCode::invalid, "a message of several frames"};
    std::vector<M> messages;
    bool more = body.more();
    if (!more) error = wire::decode(body.bytes(), messages);
    for (Part rest; more && rest.receive(socket); more = rest.more()) {
    }
    if (error.code != ErrorCode::none) bad(error);
    for (M& m : messages) tell(std::string(routed ? first.text() : std::string_view()), m);
    return true;
  }

  void* context = zmq_ctx_new();
  void* router = nullptr;
  std::map<std::string, void*> receivers;
  std::string bound;
  Counters counters;
};

TransferLink::TransferLink(const std::string& endpoint) : impl_(std::make_unique<Impl>()) {
  if (!endpoint.empty()) impl_->bind(endpoint);
}
TransferLink::~TransferLink() = default;

const std::string& TransferLink::endpoint() const { return impl_->bound; }
const TransferLink::Counters& TransferLink::counters() const { return impl_->counters; }

std::vector<void*> TransferLink::sockets() const {
  std::vector<void*> all;
  if (impl_->router) all.push_back(impl_->router);
  for (const auto& [endpoint, socket] : impl_->receivers) all.push_back(socket);
  return all;
}

void TransferLink::take(std::vector<Event>& out) {
  Impl& t = *impl_;
  const int64_t most = t.counters.bytes_in + kBytesAtOnce;
  const auto from_giver = [&](std::string peer, GiverMessage& m) {
    if (const auto* page = std::get_if<TransferPage>(&m)) {
      t.counters.bytes_in += std::ssize(*page->bytes);
      t.counters.damaged += page->damaged;
    }
    out.push_back(FromGiver{std::move(peer), std::move(m)});
  };
  for (size_t n = 0; t.router && n < kFramesAtOnce && t.counters.bytes_in < most; ++n) {
    if (!t.take_frame<GiverMessage>(t.router, true, from_giver)) break;
  }
  for (const auto& [endpoint, socket] : t.receivers) {
    const auto from_receiver = [&](const std::string&, ReceiverMessage& m) {
      out.push_back(FromReceiver{endpoint, std::move(m)});
    };
    for (size_t n = 0; n < kFramesAtOnce; ++n) {
      if (!t.take_frame<ReceiverMessage>(socket, false, from_receiver)) break;
    }
  }
}

void TransferLink::send(const ToReceiver& c) {
  impl_->put(impl_->receiver(c.endpoint), wire::encode(std::span(&c.message, 1)));
}

void TransferLink::send(const SendPage& c) {
  const GiverMessage message = c.page;
  impl_->counters.bytes_out += std::ssize(*c.page.bytes);
  impl_->put(impl_->receiver(c.endpoint), wire::encode(std::span(&message, 1)));
}

void TransferLink::send(const ToGiver& c) {
  if (impl_->router == nullptr) return;
  impl_->put(impl_->router, wire::encode(std::span(&c.message, 1)), &c.peer);
}

void TransferLink::hang_up(const std::string& endpoint) {
  const auto it = impl_->receivers.find(endpoint);
  if (it == impl_->receivers.end()) return;
  zmq_close(it->second);
  impl_->receivers.erase(it);
}

}  // namespace limpet::worker
