#include "broker/zmq_transport.h"

#include <spdlog/spdlog.h>
#include <zmq.h>

#include <optional>
#include <utility>

#include "broker/authenticator.h"
#include "broker/handshakes.h"
#include "broker/inbox.h"
#include "broker/peers.h"
#include "keys/endpoint.h"
#include "keys/keys.h"
#include "probes/log_value.h"
#include "schema/wire.h"

namespace limpet::broker {
namespace {

using probes::log_value;

// What a turn takes, so that none lasts longer than some milliseconds: of workers' messages, of all
// clients'; and of the frames of either, or one if it is larger.
constexpr size_t kFromWorkers = 8192, kFromClients = 1024;
constexpr int64_t kBytesAtOnce = 2 << 20;
constexpr size_t kMostUnhandled = 64u << 20;  // bytes: more is left to the clients' connections
constexpr size_t kMostPeers = 1u << 16;
constexpr int kLingerMs = 1000;
constexpr int kHeartbeatMs = 5000, kHeartbeatTimeoutMs = 15000;
constexpr int kHandshakeMs = 10000;
// In frames, of each peer. A client's frames are of about a megabyte at most, a listing of four;
// what it does not read waits as a place in its streams, not as frames. What we do not read in
// time is held back by TCP, at the peer.
struct HighWater {
  int send, receive;
};
constexpr HighWater kClientHighWater{16, 8}, kWorkerHighWater{10000, 64};

void set(void* socket, int option, int value) {
  if (zmq_setsockopt(socket, option, &value, sizeof(value)) != 0) {
    throw TransportError(std::string("cannot set up a socket: ") + zmq_strerror(zmq_errno()));
  }
}

// One received part; valid until the next receive.
class Part {
 public:
  Part() { zmq_msg_init(&message_); }
  ~Part() { zmq_msg_close(&message_); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  bool receive(void* socket) { return zmq_msg_recv(&message_, socket, ZMQ_DONTWAIT) >= 0; }
  bool more() const { return zmq_msg_more(&message_) != 0; }
  // The key that the sender has proven to hold; null without keys.
  const char* user() { return zmq_msg_gets(&message_, "User-Id"); }
  std::string_view bytes() {
    return {static_cast<const char*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
  }

 private:
  zmq_msg_t message_;
};

}  // namespace

struct ZmqTransport::Impl {
  explicit Impl(const Options& options) {
    context = zmq_ctx_new();
    try {
      ask_for_keys(options);
      frontend = open(options.frontend, Limits::kClientFrame, kClientHighWater);
      backend = open(options.backend, Limits::kWorkerFrame, kWorkerHighWater);
      watches[0].emplace(context, frontend, "frontend");
      watches[1].emplace(context, backend, "backend");
    } catch (...) {
      close();
      throw;
    }
  }
  ~Impl() { close(); }

  void close() {
    for (auto& watch : watches) watch.reset();
    if (frontend) zmq_close(frontend);
    if (backend) zmq_close(backend);
    authenticator.reset();
    zmq_ctx_term(context);
  }

  // Before any socket binds.
  void ask_for_keys(const Options& options) {
    if (options.server_key.empty() != options.keys.empty()) {
      throw TransportError(options.keys.empty()
                               ? "--server-key without --keys: nobody would be let in"
                               : "--keys without --server-key: name the broker's own key");
    }
    if (options.keys.empty()) return;
    server = keys::read_secret(options.server_key);
    authenticator.emplace(context, Authenticator::Options{options.keys});
    allowed_version = authenticator->version();
    allowed = authenticator->list();
  }

  void* open(const std::string& endpoint, size_t largest, HighWater high_water) {
    if (std::string why = keys::refuse_listening(endpoint, server.has_value()); !why.empty()) {
      throw TransportError(why);
    }
    void* socket = zmq_socket(context, ZMQ_ROUTER);
    if (socket == nullptr) throw TransportError("cannot make a socket");
    try {
      set(socket, ZMQ_ROUTER_MANDATORY, 1);
      set(socket, ZMQ_ROUTER_HANDOVER, 0);
      set(socket, ZMQ_IMMEDIATE, 1);
      set(socket, ZMQ_LINGER, kLingerMs);
      set(socket, ZMQ_SNDHWM, high_water.send);
      set(socket, ZMQ_RCVHWM, high_water.receive);
      set(socket, ZMQ_HEARTBEAT_IVL, kHeartbeatMs);
      set(socket, ZMQ_HEARTBEAT_TIMEOUT, kHeartbeatTimeoutMs);
      set(socket, ZMQ_HANDSHAKE_IVL, kHandshakeMs);
      if (server) keys::serve(socket, *server);
      set(socket, ZMQ_IPV6, endpoint.starts_with("tcp://[") ? 1 : 0);
      const auto most = static_cast<int64_t>(largest);
      zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &most, sizeof(most));
      if (zmq_bind(socket, endpoint.c_str()) != 0) {
        const int why = zmq_errno();
        throw TransportError(
            "cannot listen on " + endpoint + ": " + zmq_strerror(why) +
            (why == EADDRINUSE ? ". Is another broker running there? Stop it or choose another."
                               : ""));
      }
    } catch (...) {
      zmq_close(socket);
      throw;
    }
    return socket;
  }

  static std::string bound(void* socket) {
    char text[512];
    size_t size = sizeof(text);
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, text, &size) != 0) return "";
    return std::string(text);
  }

  Delivery send(void* socket, const std::string& routing, const std::string& frame) {
    if (zmq_send(socket, routing.data(), routing.size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
      return zmq_errno() == EAGAIN ? Delivery::full : Delivery::gone;
    }
    if (zmq_send(socket, frame.data(), frame.size(), ZMQ_DONTWAIT) < 0) return Delivery::gone;
    ++counters.frames_out;
    counters.bytes_out += static_cast<int64_t>(frame.size());
    return Delivery::sent;
  }

  // The payload of the next frame; false when there is none. `routing` is who sent it. A message
  // that is not one frame gives an empty payload, which no decoder takes.
  bool receive(void* socket) {
    if (!routing.receive(socket)) return false;
    payload_bytes = {};
    key = {};
    bool more = routing.more();
    for (int parts = 0; more; ++parts) {
      if (!payload.receive(socket)) break;
      more = payload.more();
      if (const char* user = payload.user()) key = user;
      payload_bytes = parts == 0 && !more ? payload.bytes() : std::string_view{};
    }
    ++counters.frames_in;
    counters.bytes_in += static_cast<int64_t>(payload_bytes.size());
    return true;
  }

  void note_bad(const char* from, const wire::DecodeError& error) {
    const int64_t n = ++counters.bad_frames;
    if ((n & (n - 1)) == 0) {  // 1, 2, 4, …: a flood of them does not flood the log
      spdlog::warn("event=bad_frame from={} code={} count={} why={}", from, name(error.code), n,
                   log_value(error.message));
    }
  }

  void refuse_client(void* socket, ErrorCode code, const std::string& why) {
    const BrokerToClient answer = Refused{"", code, why, 0};
    send(socket, std::string(routing.bytes()), wire::encode(std::span(&answer, 1)));
    refused.push_back(code);
  }

  void refuse_worker(void* socket, ErrorCode code, const std::string& why) {
    const BrokerToWorker answer = RegisterRefused{code, why};
    send(socket, std::string(routing.bytes()), wire::encode(std::span(&answer, 1)));
    refused.push_back(code);
  }

  // What the sender may do; null: nothing. A routing id that its owner has chosen could be the one
  // of somebody whose connection has just broken, and be sent what was meant for that one.
  const Permission* permission() {
    static const Permission kWithoutKeys;
    if (!server) return &kWithoutKeys;
    const bool chosen = routing.bytes().size() != 5 || routing.bytes()[0] != 0;
    return chosen ? nullptr : allowed->find(key);
  }

  void refuse(void* socket, const std::string& why) {
    const auto bytes = std::as_bytes(std::span(payload_bytes));
    if (wire::sender_of(bytes) == wire::Sender::worker) {
      refuse_worker(socket, ErrorCode::forbidden, why);
    } else {
      refuse_client(socket, ErrorCode::forbidden, why);
    }
  }

  // Those whose key is not what it was are told of as gone; what they say next is refused, or
  // counts as somebody else's.
  void follow_list() {
    if (!server || authenticator->version() == allowed_version) return;
    allowed_version = authenticator->version();
    const auto before = std::exchange(allowed, authenticator->list());
    const auto changed = [&](const std::string& k) {
      const Permission *was = before->find(k), *is = allowed->find(k);
      return was == nullptr || is == nullptr || *was != *is;
    };
    for (const ClientId id : clients.forget_if(changed)) tell_gone(id, to_tell);
    for (const WorkerId id : workers.forget_if(changed)) to_tell.push_back(WorkerUnreachable{id});
  }

  // What it has said counts no more.
  void tell_gone(ClientId id, std::vector<Event>& out) {
    inbox.forget(id);
    out.push_back(ClientGone{id});
  }

  bool take_client(std::vector<Event>& out) {
    if (inbox.bytes() >= kMostUnhandled || !receive(frontend)) return false;
    const Permission* may = permission();
    if (may == nullptr || may->role == Role::worker) {
      refuse(frontend, may == nullptr ? "this key is not allowed, or no longer"
                                      : "a worker's key cannot ask for jobs");
      return true;
    }
    from_client.clear();
    const auto error = wire::decode(std::as_bytes(std::span(payload_bytes)), from_client);
    if (error.code != ErrorCode::none) {
      note_bad("client", error);
      if (wire::sender_of(std::as_bytes(std::span(payload_bytes))) == wire::Sender::worker) {
        refuse_worker(frontend, ErrorCode::invalid,
                      "this is the clients' port; workers connect to the broker's --backend");
      } else {
        refuse_client(frontend, error.code, error.message);
      }
      return true;
    }
    const ClientId id = clients.id_of(routing.bytes(), key, turn,
                                      [&](ClientId before) { tell_gone(before, out); });
    std::vector<ClientEvent> said;
    said.reserve(from_client.size());
    for (auto& m : from_client) {
      said.push_back({id, std::move(m), 0, std::nullopt, may->tenant, may->role == Role::admin});
    }
    inbox.put(std::move(said), payload_bytes.size());
    return true;
  }

  bool take_worker(std::vector<Event>& out) {
    if (!receive(backend)) return false;
    const Permission* may = permission();
    if (may == nullptr || (server && may->role != Role::worker)) {
      refuse(backend, may == nullptr ? "this key is not allowed, or no longer"
                                     : "a client's key cannot work");
      return true;
    }
    from_worker.clear();
    const auto error = wire::decode(std::as_bytes(std::span(payload_bytes)), from_worker);
    if (error.code != ErrorCode::none) {
      note_bad("worker", error);
      if (wire::sender_of(std::as_bytes(std::span(payload_bytes))) == wire::Sender::client) {
        refuse_client(backend, ErrorCode::invalid,
                      "this is the workers' port; clients connect to the broker's --frontend");
      } else if (error.code == ErrorCode::version) {
        refuse_worker(backend, error.code, error.message);
      }
      return true;
    }
    const WorkerId id = workers.id_of(routing.bytes(), key, turn, [&](WorkerId before) {
      out.push_back(WorkerUnreachable{before});
    });
    for (auto& m : from_worker) out.push_back(WorkerEvent{id, std::move(m), std::string(key)});
    return true;
  }

  void* context = nullptr;
  void* frontend = nullptr;
  void* backend = nullptr;
  std::optional<keys::KeyPair> server;  // none: keys are off
  std::optional<Authenticator> authenticator;
  std::shared_ptr<const AllowList> allowed;
  uint64_t allowed_version = 0;
  std::optional<Handshakes> watches[2];
  Peers<ClientId> clients{kMostPeers};
  Peers<WorkerId> workers{kMostPeers};
  Inbox inbox;
  std::vector<Event> to_tell;  // who could not be reached
  std::vector<ClientMessage> from_client;
  std::vector<WorkerMessage> from_worker;
  Part routing, payload;
  std::string_view payload_bytes;
  std::string_view key;  // of who sent it, as the authenticator named it; empty without keys
  uint64_t turn = 0;
  Counters counters;
  std::vector<ErrorCode> refused;
};

ZmqTransport::ZmqTransport(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
ZmqTransport::~ZmqTransport() = default;

void ZmqTransport::poll(std::chrono::milliseconds wait, std::vector<Event>& out) {
  Impl& t = *impl_;
  ++t.turn;
  if (t.authenticator) {
    if (const std::string why = t.authenticator->failure(); !why.empty()) {
      throw TransportError("the thread that checks keys has ended (" + why +
                           "), so nobody can be let in: start the broker again");
    }
    t.follow_list();
  }
  for (Event& e : t.to_tell) out.push_back(std::move(e));
  if (!t.to_tell.empty() || !t.inbox.empty()) wait = std::chrono::milliseconds(0);
  t.to_tell.clear();
  zmq_pollitem_t items[] = {{t.frontend, 0, ZMQ_POLLIN, 0}, {t.backend, 0, ZMQ_POLLIN, 0}};
  if (zmq_poll(items, 2, wait.count()) > 0) {
    const auto bytes = [&] { return t.counters.bytes_in; };
    for (const int64_t end = bytes() + kBytesAtOnce; bytes() < end && t.take_client(out);) {
    }
    const size_t most = out.size() + kFromWorkers;
    for (const int64_t end = bytes() + kBytesAtOnce;
         bytes() < end && out.size() < most && t.take_worker(out);) {
    }
  }
  t.inbox.take(kFromClients, out);
}

Delivery ZmqTransport::send(ClientId client, const std::string& frame) {
  const std::string* routing = impl_->clients.routing(client);
  if (routing == nullptr) return Delivery::gone;
  const Delivery d = impl_->send(impl_->frontend, *routing, frame);
  if (d == Delivery::gone) {
    impl_->clients.forget(client);
    impl_->tell_gone(client, impl_->to_tell);
  }
  return d;
}

void ZmqTransport::send(WorkerId worker, std::span<const BrokerToWorker> messages) {
  const std::string* routing = impl_->workers.routing(worker);
  if (routing == nullptr) return;  // has been told
  for (const std::string& frame : wire::encode_frames(messages)) {
    const Delivery d = impl_->send(impl_->backend, *routing, frame);
    if (d == Delivery::sent) continue;
    spdlog::warn("event=worker_unreachable why=\"{}\"",
                 d == Delivery::full ? "it does not read" : "its connection is gone");
    impl_->to_tell.push_back(WorkerUnreachable{worker});
    if (d == Delivery::gone) impl_->workers.forget(worker);
    return;
  }
}

std::string ZmqTransport::frontend() const { return Impl::bound(impl_->frontend); }
std::string ZmqTransport::backend() const { return Impl::bound(impl_->backend); }
const ZmqTransport::Counters& ZmqTransport::counters() const { return impl_->counters; }
void ZmqTransport::reload_keys() {
  if (impl_->authenticator) impl_->authenticator->reload();
}
std::map<std::string, int64_t> ZmqTransport::take_refused_handshakes() {
  std::map<std::string, int64_t> refused;
  for (auto& watch : impl_->watches) watch->count_refused(refused);
  if (impl_->authenticator) {
    for (const auto& [reason, n] : impl_->authenticator->take_refused()) refused[reason] += n;
  }
  return refused;
}
std::vector<ErrorCode> ZmqTransport::take_refused() { return std::exchange(impl_->refused, {}); }

}  // namespace limpet::broker
