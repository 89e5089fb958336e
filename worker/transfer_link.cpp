#include "worker/transfer_link.h"

#include <spdlog/spdlog.h>
#include <zmq.h>

#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>

#include "keys/endpoint.h"
#include "keys/handshake.h"
#include "keys/keys.h"
#include "keys/zap.h"
#include "probes/log_value.h"
#include "schema/wire.h"

namespace limpet::worker {
namespace {

using probes::log_value;

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

void check_endpoint(const std::string& endpoint, bool with_keys) {
  if (const std::string why = keys::refuse_listening(endpoint, with_keys); !why.empty()) {
    const bool off_loopback =
        endpoint.starts_with("tcp://") && !endpoint.starts_with("tcp://localhost");
    if (with_keys || !off_loopback) throw TransportError("--transfer: " + why);
    throw TransportError("--transfer: keys are required off loopback, and " + endpoint +
                         " can be reached from other machines: give --key and"
                         " --server-public-key, or use tcp://127.0.0.1:* or ipc://");
  }
  if (endpoint.starts_with("tcp://*:") || endpoint.starts_with("tcp://0.0.0.0:")) {
    throw TransportError("--transfer " + endpoint +
                         " names no address: write the one by which other workers reach this one");
  }
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
  std::string user() {  // its sender's public key; empty: keys are off
    const char* name = zmq_msg_gets(&message_, "User-Id");
    return name == nullptr ? "" : name;
  }
  std::span<const std::byte> bytes() { return std::as_bytes(std::span(text())); }

 private:
  zmq_msg_t message_;
};

}  // namespace

struct TransferLink::Impl {
  explicit Impl(const keys::Identity& own) : identity(own) {}
  ~Impl() {
    while (!receivers.empty()) hang_up(std::string(receivers.begin()->first));
    if (router) zmq_close(router);
    if (zap) zmq_close(zap);
    zmq_ctx_term(context);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // `key`: of a receiver; its own, for the ROUTER.
  void* open(int type, const std::string& endpoint, const std::string& key,
             std::unique_ptr<keys::Watch>* watch = nullptr) {
    void* socket = zmq_socket(context, type);
    if (socket == nullptr) throw TransportError("cannot make a socket");
    try {
      if (type == ZMQ_ROUTER && identity.on()) keys::serve(socket, identity.own);
      if (type == ZMQ_DEALER) keys::use(socket, {identity.own, key});
      set(socket, ZMQ_LINGER, kLingerMs);
      set(socket, ZMQ_SNDHWM, kHighWater);
      set(socket, ZMQ_RCVHWM, kHighWater);
      set(socket, ZMQ_HEARTBEAT_IVL, kHeartbeatMs);
      set(socket, ZMQ_HEARTBEAT_TIMEOUT, kHeartbeatTimeoutMs);
      set(socket, ZMQ_IPV6, endpoint.starts_with("tcp://[") ? 1 : 0);
      const auto most = static_cast<int64_t>(Limits::kWorkerFrame);
      zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &most, sizeof(most));
      if (watch) *watch = std::make_unique<keys::Watch>(context, socket);
      const int failed = type == ZMQ_ROUTER ? zmq_bind(socket, endpoint.c_str())
                                            : zmq_connect(socket, endpoint.c_str());
      if (failed != 0) {
        throw TransportError("cannot use --transfer " + endpoint + ": " +
                             zmq_strerror(zmq_errno()));
      }
    } catch (...) {
      if (watch) watch->reset();
      zmq_close(socket);
      throw;
    }
    return socket;
  }

  void bind(const std::string& endpoint) {
    check_endpoint(endpoint, identity.on());
    if (identity.on()) {
      zap = zmq_socket(context, ZMQ_REP);
      if (zap == nullptr || zmq_bind(zap, keys::kZapEndpoint) != 0) {
        throw TransportError("cannot answer for keys");
      }
      set(zap, ZMQ_LINGER, 0);
    }
    router = open(ZMQ_ROUTER, endpoint, "");
    char text[256];
    size_t size = sizeof(text);
    if (zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, text, &size) == 0) bound = text;
  }

  // Handshakes, here in the loop: while it does not turn nobody is let in.
  void answer_handshakes() {
    while (auto request = zap ? keys::next_request(zap) : std::nullopt) {
      const bool fine = request->readable && request->mechanism == "CURVE" &&
                        expected.contains(request->key);
      // One that comes before the broker's word of it tries again: see Receiver::watch.
      keys::answer(zap, *request, fine ? "" : "not_expected", request->key);
      if (!fine) refuse("a handshake", request->key);
    }
  }

  void refuse(const char* what, const std::string& key) {
    const int64_t n = ++counters.refused;
    if ((n & (n - 1)) == 0) {
      spdlog::warn("event=transfer_refused what=\"{}\" key={} count={}", what, log_value(key), n);
    }
  }

  // Null when the endpoint that the broker named is none, or is without keys where we have ours.
  void* receiver(const std::string& endpoint) {
    const auto it = receivers.find(endpoint);
    return it == receivers.end() ? nullptr : it->second.socket;
  }

  void call(const CallReceiver& c) {
    if (const auto it = receivers.find(c.endpoint); it != receivers.end()) {
      if (it->second.key == c.key) return;
      hang_up(c.endpoint);  // another process is there now
    }
    try {
      if (identity.on() != !c.key.empty()) {
        throw TransportError(identity.on() ? "the receiver has no keys" : "the receiver has keys,"
                                                                          " and this worker none");
      }
      check_endpoint(c.endpoint, identity.on());
      Receiver r{nullptr, c.key, nullptr};
      r.socket = open(ZMQ_DEALER, c.endpoint, c.key, identity.on() ? &r.watch : nullptr);
      receivers[c.endpoint] = std::move(r);
    } catch (const std::runtime_error& e) {
      spdlog::warn("event=transfer_failed endpoint={} why={}", log_value(c.endpoint),
                   log_value(e.what()));
    } catch (const keys::KeyError& e) {
      spdlog::warn("event=transfer_failed endpoint={} why={}", log_value(c.endpoint),
                   log_value(e.what()));
    }
  }

  void hang_up(const std::string& endpoint) {
    const auto it = receivers.find(endpoint);
    if (it == receivers.end()) return;
    it->second.watch.reset();
    zmq_close(it->second.socket);
    receivers.erase(it);
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
      spdlog::warn("event=bad_frame link=transfer code={} count={} why={}", name(error.code), n,
                   log_value(error.message));
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
    const bool stranger = routed && zap && !expected.contains(body.user());
    if (stranger) {  // its hand-over is over, or was never announced
      while (more && first.receive(socket)) more = first.more();
      refuse("a frame", body.user());
      return true;
    }
    if (!more) error = wire::decode(body.bytes(), messages);
    for (Part rest; more && rest.receive(socket); more = rest.more()) {
    }
    if (error.code != ErrorCode::none) bad(error);
    for (M& m : messages) tell(std::string(routed ? first.text() : std::string_view()), m);
    return true;
  }

  struct Receiver {
    void* socket = nullptr;
    std::string key;
    std::unique_ptr<keys::Watch> watch;  // connects again after a handshake that was refused
  };
  const keys::Identity identity;
  void* context = zmq_ctx_new();
  void* router = nullptr;
  void* zap = nullptr;  // asks us who may come in
  std::set<std::string, std::less<>> expected;
  std::map<std::string, Receiver> receivers;
  std::string bound;
  Counters counters;
};

TransferLink::TransferLink(const std::string& endpoint, const keys::Identity& identity)
    : impl_(std::make_unique<Impl>(identity)) {
  if (!endpoint.empty()) impl_->bind(endpoint);
}
TransferLink::~TransferLink() = default;

const std::string& TransferLink::endpoint() const { return impl_->bound; }
const TransferLink::Counters& TransferLink::counters() const { return impl_->counters; }

std::vector<void*> TransferLink::sockets() const {
  std::vector<void*> all;
  if (impl_->router) all.push_back(impl_->router);
  if (impl_->zap) all.push_back(impl_->zap);
  for (const auto& [endpoint, r] : impl_->receivers) all.push_back(r.socket);
  return all;
}

void TransferLink::take(std::vector<Event>& out) {
  Impl& t = *impl_;
  t.answer_handshakes();
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
  for (const auto& [endpoint, r] : t.receivers) {
    if (r.watch) {
      r.watch->look();
      r.watch->try_again(endpoint);
    }
    const auto from_receiver = [&out, &from = endpoint](const std::string&, ReceiverMessage& m) {
      out.push_back(FromReceiver{from, std::move(m)});
    };
    for (size_t n = 0; n < kFramesAtOnce; ++n) {
      if (!t.take_frame<ReceiverMessage>(r.socket, false, from_receiver)) break;
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

void TransferLink::let_in(std::vector<std::string> keys) {
  impl_->expected = {std::make_move_iterator(keys.begin()), std::make_move_iterator(keys.end())};
}

void TransferLink::call(const CallReceiver& c) { impl_->call(c); }

void TransferLink::hang_up(const std::string& endpoint) { impl_->hang_up(endpoint); }

}  // namespace limpet::worker
