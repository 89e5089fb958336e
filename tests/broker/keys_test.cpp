// Who is let in, as what, and what becomes of it when the allow-list changes: real sockets.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zmq.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <thread>

#include "broker/authenticator.h"
#include "broker/zmq_transport.h"
#include "keys/keys.h"
#include "schema/wire.h"
#include "tests/broker/scratch_folder.h"

// Comes before libzmq's own: the thread that checks keys is the only one that polls one socket.
static std::atomic<bool> polls_of_one_fail{false};
extern "C" int zmq_poll(zmq_pollitem_t* items, int n, long timeout) {
  static const auto next =
      reinterpret_cast<int (*)(zmq_pollitem_t*, int, long)>(dlsym(RTLD_NEXT, "zmq_poll"));
  if (n == 1 && polls_of_one_fail) {
    errno = ENOTSOCK;
    return -1;
  }
  return next(items, n, timeout);
}

namespace limpet::broker {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using testing::HasSubstr;

TEST(AllowList, LinesSayRoleTenantAndKey) {
  const std::string a = keys::draw().public_key, b = keys::draw().public_key,
                    c = keys::draw().public_key;
  const auto parsed = parse_allow_list("# who may connect\n\nclient acme " + a + "\r\n  worker\t" +
                                       b + "\nadmin ops " + c);
  EXPECT_EQ(parsed.error, "");
  EXPECT_EQ(parsed.list.size(), 3u);
  ASSERT_NE(parsed.list.find(a), nullptr);
  EXPECT_EQ(*parsed.list.find(a), (Permission{Role::client, "acme"}));
  EXPECT_EQ(*parsed.list.find(b), (Permission{Role::worker, ""}));
  EXPECT_EQ(*parsed.list.find(c), (Permission{Role::admin, "ops"}));
  EXPECT_EQ(parsed.list.find(keys::draw().public_key), nullptr);
  EXPECT_EQ(parsed.list.find(""), nullptr);
}

TEST(AllowList, AListOfNobodyIsAnError) {
  for (const char* text : {"", "\n\n", "# nobody yet\n"}) {
    EXPECT_THAT(parse_allow_list(text).error, HasSubstr("lists nobody")) << text;
  }
}

TEST(AllowList, AKeyMayStandAsInItsFile) {
  const std::string a = keys::draw().public_key, b = keys::draw().public_key,
                    c = keys::draw().public_key;
  const auto parsed = parse_allow_list("client acme public " + a + "\nworker public " + b +
                                       "\nadmin public " + c);  // which is a tenant's name too
  EXPECT_EQ(parsed.error, "");
  ASSERT_EQ(parsed.list.size(), 3u);
  EXPECT_EQ(*parsed.list.find(a), (Permission{Role::client, "acme"}));
  EXPECT_EQ(*parsed.list.find(b), (Permission{Role::worker, ""}));
  EXPECT_EQ(*parsed.list.find(c), (Permission{Role::admin, "public"}));
  EXPECT_THAT(parse_allow_list("client acme secret " + a).error, HasSubstr("write: client TENANT"));
}

TEST(AllowList, AWrongLineIsToldByItsNumberAndNothingIsTaken) {
  const std::string a = keys::draw().public_key, good = "worker " + keys::draw().public_key + "\n";
  const std::pair<std::string, const char*> cases[] = {
      {"owner acme " + a, "is no role"},
      {"client " + a, "write: client TENANT KEY"},
      {"worker acme " + a, "write: worker KEY"},
      {"client acme " + a + " more", "write: client TENANT KEY"},
      {"client a/b " + a, "a tenant's name has"},
      {"client " + std::string(65, 'x') + " " + a, "a tenant's name has"},
      {"client acme " + a.substr(1), "is no public key"},
      {"worker " + a + "\nclient acme " + a, "listed above"}};
  for (const auto& [text, why] : cases) {
    const auto parsed = parse_allow_list(good + text);
    EXPECT_THAT(parsed.error, HasSubstr(why)) << text;
    EXPECT_THAT(parsed.error, HasSubstr(text.find('\n') == text.npos ? "line 2:" : "line 3:"));
    EXPECT_EQ(parsed.list.size(), 0u);
  }
}

// A DEALER with a key, or in clear.
class Peer {
 public:
  Peer(void* context, const std::string& endpoint, const keys::Identity& identity,
       const std::string& routing_id = "") {
    socket_ = zmq_socket(context, ZMQ_DEALER);
    const int linger = 0;
    zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof(linger));
    if (!routing_id.empty()) {
      zmq_setsockopt(socket_, ZMQ_ROUTING_ID, routing_id.data(), routing_id.size());
    }
    keys::use(socket_, identity);
    zmq_connect(socket_, endpoint.c_str());
  }
  ~Peer() { zmq_close(socket_); }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  void send(const ClientMessage& m) { send(wire::encode(std::span(&m, 1))); }
  void send(const WorkerMessage& m) { send(wire::encode(std::span(&m, 1))); }
  template <typename Message>
  std::vector<Message> receive(int wait_ms = 60000) {
    std::vector<Message> out;
    zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &wait_ms, sizeof(wait_ms));
    std::vector<char> frame(1 << 16);
    const int n = zmq_recv(socket_, frame.data(), frame.size(), 0);
    if (n < 0) return out;
    const auto bytes = std::as_bytes(std::span(frame)).first(static_cast<size_t>(n));
    EXPECT_EQ(wire::decode(bytes, out).code, ErrorCode::none);
    return out;
  }

 private:
  void send(const std::string& frame) { zmq_send(socket_, frame.data(), frame.size(), 0); }
  void* socket_;
};

class KeysOnTest : public testing::Test {
 protected:
  KeysOnTest() : context_(zmq_ctx_new()) {
    keys::write(in("server"), server_);
    allow(everybody());
    transport_.emplace(options());
  }
  ~KeysOnTest() override {
    transport_.reset();
    peers_.clear();
    zmq_ctx_term(context_);
  }

  std::string in(const char* name) const { return scratch_.path() + "/" + name; }
  ZmqTransport::Options options() const {
    return {"tcp://127.0.0.1:*", "tcp://127.0.0.1:*", in("server"), in("keys")};
  }
  std::string everybody() const {
    return "client acme " + acme_.public_key + "\nclient zeta " + zeta_.public_key +
           "\nadmin ops " + admin_.public_key + "\nworker " + worker_.public_key + "\n";
  }
  // As an editor that replaces the file whole.
  void allow(const std::string& text) {
    std::ofstream(in("keys.new")) << text;
    fs::rename(in("keys.new"), in("keys"));
  }
  Peer& connect(const std::string& to, const keys::KeyPair& own, const std::string& id = "") {
    return *peers_.emplace_back(
        std::make_unique<Peer>(context_, to, keys::Identity{own, server_.public_key}, id));
  }
  Peer& connect_in_clear(const std::string& to) {
    return *peers_.emplace_back(std::make_unique<Peer>(context_, to, keys::Identity{}));
  }
  std::vector<Event> poll(int rounds = 600) {
    std::vector<Event> events;
    for (int i = 0; i < rounds && events.empty(); ++i) transport_->poll(milliseconds(100), events);
    return events;
  }
  // What the peer is told by the transport itself: no event comes of it.
  template <typename Message>
  std::vector<Message> told(Peer& peer) {
    std::vector<Message> got;
    std::vector<Event> events;
    for (int i = 0; i < 3000 && got.empty(); ++i) {
      transport_->poll(milliseconds(20), events);
      got = peer.receive<Message>(0);
    }
    EXPECT_TRUE(events.empty());
    return got;
  }
  // Polls until so many handshakes have been refused for these reasons; false after a minute.
  bool refused(const std::vector<std::string>& reasons, int64_t n = 1) {
    std::vector<Event> events;
    for (int i = 0; i < 3000; ++i) {
      transport_->poll(milliseconds(20), events);
      for (const auto& [why, more] : transport_->take_refused_handshakes()) counted_[why] += more;
      int64_t counted = 0;
      for (const std::string& reason : reasons) counted += counted_[reason];
      if (counted >= n) return events.empty();
    }
    return false;
  }

  ScratchFolder scratch_;
  void* context_;
  const keys::KeyPair server_ = keys::draw(), acme_ = keys::draw(), zeta_ = keys::draw(),
                      admin_ = keys::draw(), worker_ = keys::draw();
  std::optional<ZmqTransport> transport_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::map<std::string, int64_t> counted_;
};

TEST_F(KeysOnTest, AKeySaysWhoseClientItIs) {
  struct Case {
    const keys::KeyPair& key;
    const char* tenant;
    bool admin;
  };
  const Case cases[] = {{acme_, "acme", false}, {zeta_, "zeta", false}, {admin_, "ops", true}};
  for (const Case& c : cases) {
    connect(transport_->frontend(), c.key).send(ClientMessage{Cancel{"a"}});
    const auto events = poll();
    ASSERT_EQ(events.size(), 1u) << c.tenant;
    const auto& e = std::get<ClientEvent>(events[0]);
    EXPECT_EQ(e.tenant, c.tenant);
    EXPECT_EQ(e.admin, c.admin);
  }
  connect(transport_->backend(), worker_).send(WorkerMessage{Leaving{4}});
  const auto events = poll();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<WorkerEvent>(events[0]));
}

TEST_F(KeysOnTest, WhoIsNotListedIsNotLetInAndIsCounted) {
  connect(transport_->frontend(), keys::draw()).send(ClientMessage{Cancel{"a"}});
  EXPECT_TRUE(refused({"unknown_key"}));
  // Both ends notice; who is second only sees that the other has gone.
  const std::vector<std::string> in_clear = {"mechanism", "broken_off"};
  connect_in_clear(transport_->frontend()).send(ClientMessage{Cancel{"a"}});
  EXPECT_TRUE(refused(in_clear));
  connect_in_clear(transport_->backend()).send(WorkerMessage{Leaving{4}});
  EXPECT_TRUE(refused(in_clear, 2));
  const keys::Identity wrong_server{acme_, keys::draw().public_key};
  const Peer deceived(context_, transport_->frontend(), wrong_server);
  EXPECT_TRUE(refused({"wrong_server_key"}));
}

// One of each kind.
template <typename Message, size_t... I>
std::vector<Message> all(std::index_sequence<I...> /*kinds*/) {
  return {Message(std::in_place_index<I>)...};
}
template <typename Message>
std::vector<Message> all() {
  return all<Message>(std::make_index_sequence<std::variant_size_v<Message>>());
}

TEST_F(KeysOnTest, ARoleIsForItsPortAlone) {
  Peer& climber = connect(transport_->backend(), acme_);
  for (const WorkerMessage& m : all<WorkerMessage>()) {
    climber.send(m);
    auto to_worker = told<BrokerToWorker>(climber);
    ASSERT_EQ(to_worker.size(), 1u) << "message " << m.index();
    EXPECT_EQ(std::get<RegisterRefused>(to_worker[0]).code, ErrorCode::forbidden);
  }
  Peer& worker = connect(transport_->frontend(), worker_);
  for (ClientMessage m : all<ClientMessage>()) {
    if (auto* submit = std::get_if<Submit>(&m)) submit->spec = std::make_shared<JobSpec>();
    worker.send(m);
    auto to_client = told<BrokerToClient>(worker);
    ASSERT_EQ(to_client.size(), 1u) << "message " << m.index();
    EXPECT_EQ(std::get<Refused>(to_client[0]).code, ErrorCode::forbidden);
  }
  const size_t n = std::variant_size_v<WorkerMessage> + std::variant_size_v<ClientMessage>;
  EXPECT_EQ(transport_->take_refused(), std::vector<ErrorCode>(n, ErrorCode::forbidden));
}

TEST_F(KeysOnTest, ARoutingIdOfOnesOwnIsRefused) {
  Peer& peer = connect(transport_->frontend(), acme_, "mine");
  peer.send(ClientMessage{Cancel{"a"}});
  auto got = told<BrokerToClient>(peer);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(std::get<Refused>(got[0]).code, ErrorCode::forbidden);
}

TEST_F(KeysOnTest, AKeyThatLeavesTheListIsCutOffWhereItIs) {
  Peer& acme = connect(transport_->frontend(), acme_);
  Peer& worker = connect(transport_->backend(), worker_);
  acme.send(ClientMessage{Cancel{"a"}});
  auto events = poll();
  ASSERT_EQ(events.size(), 1u);
  const ClientId client = std::get<ClientEvent>(events[0]).client;
  worker.send(WorkerMessage{Leaving{4}});
  events = poll();
  ASSERT_EQ(events.size(), 1u);

  allow("client zeta " + zeta_.public_key + "\n");
  events = poll();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(std::get<ClientGone>(events[0]).client, client);
  EXPECT_TRUE(std::holds_alternative<WorkerUnreachable>(events[1]));
  EXPECT_EQ(transport_->send(client, "x"), Delivery::gone);
  acme.send(ClientMessage{Cancel{"a"}});
  auto got = told<BrokerToClient>(acme);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(std::get<Refused>(got[0]).code, ErrorCode::forbidden);
}

TEST_F(KeysOnTest, AKeyThatChangesItsTenantIsSomebodyElse) {
  Peer& peer = connect(transport_->frontend(), acme_);
  peer.send(ClientMessage{Cancel{"a"}});
  const ClientId before = std::get<ClientEvent>(poll().at(0)).client;
  allow("client other " + acme_.public_key + "\n");
  EXPECT_EQ(std::get<ClientGone>(poll().at(0)).client, before);
  peer.send(ClientMessage{Cancel{"a"}});
  const auto events = poll();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(std::get<ClientEvent>(events[0]).tenant, "other");
  EXPECT_NE(std::get<ClientEvent>(events[0]).client, before);
}

TEST_F(KeysOnTest, AWrongListChangesNothing) {
  allow("client acme\n");
  EXPECT_TRUE(poll(5).empty());
  connect(transport_->frontend(), acme_).send(ClientMessage{Cancel{"a"}});
  EXPECT_EQ(poll().size(), 1u);
  fs::remove(in("keys"));
  EXPECT_TRUE(poll(5).empty());
  connect(transport_->frontend(), zeta_).send(ClientMessage{Cancel{"a"}});
  EXPECT_EQ(poll().size(), 1u);
}

TEST_F(KeysOnTest, WithoutAGoodListOrKeyThereIsNoBroker) {
  transport_.reset();
  const auto error = [&](ZmqTransport::Options o) {
    try {
      ZmqTransport t(o);
    } catch (const std::exception& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  auto o = options();
  o.keys.clear();
  EXPECT_THAT(error(o), HasSubstr("--keys"));
  o = options();
  o.server_key.clear();
  EXPECT_THAT(error(o), HasSubstr("--server-key"));
  allow("worker x\n");
  EXPECT_THAT(error(options()), HasSubstr("line 1"));
  fs::remove(in("keys"));
  EXPECT_THAT(error(options()), HasSubstr("cannot be read"));
  allow(everybody());
  fs::permissions(in("server"), fs::perms::others_read, fs::perm_options::add);
  EXPECT_THAT(error(options()), HasSubstr("chmod 600"));
}

TEST_F(KeysOnTest, TheThreadsEndIsSeenAndLetsNobodyIn) {
  void* context = zmq_ctx_new();
  std::optional<Authenticator> authenticator(std::in_place, context,
                                             Authenticator::Options{in("keys")});
  void* door = zmq_socket(context, ZMQ_ROUTER);
  const int linger = 0;
  zmq_setsockopt(door, ZMQ_LINGER, &linger, sizeof(linger));
  keys::serve(door, server_);
  ASSERT_EQ(zmq_bind(door, "tcp://127.0.0.1:*"), 0);
  char where[64];
  size_t length = sizeof(where);
  zmq_getsockopt(door, ZMQ_LAST_ENDPOINT, where, &length);
  const auto comes_in = [&](int wait_ms) {
    Peer peer(context_, where, keys::Identity{acme_, server_.public_key});
    peer.send(ClientMessage{Cancel{"a"}});
    zmq_setsockopt(door, ZMQ_RCVTIMEO, &wait_ms, sizeof(wait_ms));
    char part[256];
    if (zmq_recv(door, part, sizeof(part), 0) < 0) return false;
    return zmq_recv(door, part, sizeof(part), 0) > 0;
  };
  EXPECT_TRUE(comes_in(60000));
  EXPECT_EQ(authenticator->failure(), "");
  polls_of_one_fail = true;
  for (int i = 0; i < 3000 && authenticator->failure().empty(); ++i) {
    std::this_thread::sleep_for(milliseconds(20));
  }
  EXPECT_THAT(authenticator->failure(), HasSubstr("cannot"));
  polls_of_one_fail = false;
  EXPECT_FALSE(comes_in(2000));
  authenticator.reset();
  zmq_close(door);
  zmq_ctx_term(context);
}

}  // namespace
}  // namespace limpet::broker
