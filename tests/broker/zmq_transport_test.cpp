#include "broker/zmq_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zmq.h>

#include <thread>

#include "schema/wire.h"

namespace limpet::broker {
namespace {

using std::chrono::milliseconds;

class Peer {
 public:
  explicit Peer(const std::string& endpoint) {
    socket_ = zmq_socket(context(), ZMQ_DEALER);
    const int linger = 0, patience = 60000;
    zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &patience, sizeof(patience));
    EXPECT_EQ(zmq_connect(socket_, endpoint.c_str()), 0);
  }
  ~Peer() { zmq_close(socket_); }
  void send(const std::string& frame, bool more = false) {
    zmq_send(socket_, frame.data(), frame.size(), more ? ZMQ_SNDMORE : 0);
  }
  template <typename Message>
  std::vector<Message> receive() {
    std::vector<Message> out;
    std::vector<char> frame(1 << 20);
    const int n = zmq_recv(socket_, frame.data(), frame.size(), 0);
    if (n >= 0) {
      const auto bytes = std::as_bytes(std::span(frame)).first(static_cast<size_t>(n));
      EXPECT_EQ(wire::decode(bytes, out).code, ErrorCode::none);
    }
    return out;
  }
  static void* context() {
    static void* made = zmq_ctx_new();
    return made;
  }

 private:
  void* socket_;
};

class TransportTest : public testing::Test {
 protected:
  std::vector<Event> poll() {
    std::vector<Event> events;
    for (int i = 0; i < 600 && events.empty(); ++i) transport_.poll(milliseconds(100), events);
    return events;
  }
  // Until so many bad frames have come, and no event with them.
  void poll_bad_frames(int64_t n) {
    std::vector<Event> events;
    for (int i = 0; i < 600 && transport_.counters().bad_frames < n; ++i) {
      transport_.poll(milliseconds(100), events);
    }
    EXPECT_EQ(transport_.counters().bad_frames, n);
    EXPECT_TRUE(events.empty());
  }
  static std::string cancel(const std::string& id) {
    const ClientMessage m = Cancel{id};
    return wire::encode(std::span(&m, 1));
  }

  ZmqTransport transport_{{"tcp://127.0.0.1:*", "tcp://127.0.0.1:*"}};
};

TEST_F(TransportTest, ClientsAndWorkersAreToldApartAndAnswered) {
  Peer client(transport_.frontend()), worker(transport_.backend());
  client.send(cancel("a"));
  auto events = poll();
  ASSERT_EQ(events.size(), 1u);
  const auto& e = std::get<ClientEvent>(events[0]);
  EXPECT_EQ(std::get<Cancel>(e.message).job_id, "a");
  const BrokerToClient answer = Refused{"a", ErrorCode::not_found, "no such job", 0};
  EXPECT_EQ(transport_.send(e.client, wire::encode(std::span(&answer, 1))), Delivery::sent);
  auto got = client.receive<BrokerToClient>();
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(std::get<Refused>(got[0]).code, ErrorCode::not_found);

  const WorkerMessage hello = Leaving{4};
  worker.send(wire::encode(std::span(&hello, 1)));
  events = poll();
  ASSERT_EQ(events.size(), 1u);
  const BrokerToWorker who = WhoAreYou{};
  transport_.send(std::get<WorkerEvent>(events[0]).worker, std::span(&who, 1));
  EXPECT_EQ(worker.receive<BrokerToWorker>().size(), 1u);
}

TEST_F(TransportTest, ABadFrameCostsItsSenderAnError) {
  Peer client(transport_.frontend()), worker(transport_.backend());
  std::string damaged = cancel("a");
  damaged[damaged.size() / 2] = static_cast<char>(~damaged[damaged.size() / 2]);
  damaged.resize(damaged.size() - 3);
  worker.send("nonsense");
  poll_bad_frames(1);
  int64_t bad_frames = 1;
  for (const std::string& bad : {std::string("nonsense"), std::string(), damaged}) {
    client.send(bad);
    poll_bad_frames(++bad_frames);
    const auto got = client.receive<BrokerToClient>();
    ASSERT_EQ(got.size(), 1u);
    EXPECT_TRUE(std::holds_alternative<Refused>(got[0]));
  }
  client.send(cancel("a"), true);  // a message of two parts is not one frame
  client.send(cancel("b"));
  poll_bad_frames(++bad_frames);
  EXPECT_EQ(client.receive<BrokerToClient>().size(), 1u);
  client.send(cancel("c"));
  EXPECT_EQ(poll().size(), 1u) << "a sound frame of the same sender is taken";
  EXPECT_EQ(transport_.counters().bad_frames, bad_frames);
}

TEST_F(TransportTest, WhoSpeaksToTheWrongPortIsToldSo) {
  Peer client(transport_.backend()), worker(transport_.frontend());
  client.send(cancel("a"));
  const WorkerMessage hello = Leaving{4};
  worker.send(wire::encode(std::span(&hello, 1)));
  std::vector<Event> events;
  for (int i = 0; i < 600 && transport_.counters().frames_in < 2; ++i) {
    transport_.poll(milliseconds(100), events);
  }
  EXPECT_TRUE(events.empty());
  const auto refused = client.receive<BrokerToClient>();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(std::get<Refused>(refused[0]).code, ErrorCode::invalid);
  EXPECT_THAT(std::get<Refused>(refused[0]).message, testing::HasSubstr("the workers' port"));
  const auto told = worker.receive<BrokerToWorker>();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_THAT(std::get<RegisterRefused>(told[0]).message, testing::HasSubstr("the clients' port"));
  EXPECT_THAT(transport_.take_refused(),
              testing::ElementsAre(ErrorCode::invalid, ErrorCode::invalid));
  EXPECT_TRUE(transport_.take_refused().empty());
}

TEST_F(TransportTest, WhatIsNotReadWaitsAtItsSender) {
  void* socket = zmq_socket(Peer::context(), ZMQ_DEALER);
  const int linger = 0, high_water = 1, patience = 300;
  zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
  zmq_setsockopt(socket, ZMQ_SNDHWM, &high_water, sizeof(high_water));
  zmq_setsockopt(socket, ZMQ_SNDTIMEO, &patience, sizeof(patience));
  ASSERT_EQ(zmq_connect(socket, transport_.frontend().c_str()), 0);
  const std::string frame(2 << 20, 'x');
  int sent = 0;
  while (sent < 64 && zmq_send(socket, frame.data(), frame.size(), 0) >= 0) ++sent;
  EXPECT_LT(sent, 40);  // eight here, and what TCP's buffers hold
  zmq_close(socket);
}

TEST_F(TransportTest, WhoSaysLittleDoesNotWaitForAllThatAnotherSays) {
  constexpr size_t kMany = 20000;
  const std::vector<ClientMessage> many(kMany, ClientMessage(Attach{"a", 0}));
  Peer loud(transport_.frontend()), quiet(transport_.frontend());
  std::vector<Event> first;
  quiet.send(cancel("a"));  // its connection is there before the other's frame
  for (int i = 0; i < 30 && first.empty(); ++i) transport_.poll(milliseconds(100), first);
  ASSERT_EQ(first.size(), 1u);
  first.clear();
  loud.send(wire::encode(std::span(many)));
  for (int i = 0; i < 30 && first.empty(); ++i) transport_.poll(milliseconds(100), first);
  ASSERT_FALSE(first.empty());
  EXPECT_LE(first.size(), 1024u);  // a share of the frame
  quiet.send(cancel("b"));
  std::this_thread::sleep_for(milliseconds(50));  // until it has come
  size_t heard = first.size(), before_quiet = 0;
  bool told = false;
  for (int i = 0; i < 1000 && (heard < kMany || !told); ++i) {
    std::vector<Event> next;
    transport_.poll(milliseconds(20), next);
    for (const Event& e : next) {
      const auto& m = std::get<ClientEvent>(e).message;
      if (std::holds_alternative<Cancel>(m)) {
        told = true;
        before_quiet = heard;
      } else {
        ++heard;
      }
    }
  }
  EXPECT_EQ(heard, kMany);  // nothing of it is lost
  EXPECT_TRUE(told);
  EXPECT_LT(before_quiet, kMany / 2);
}

TEST_F(TransportTest, WhoHasGoneIsTold) {
  std::vector<Event> events;
  {
    Peer client(transport_.frontend()), worker(transport_.backend());
    client.send(cancel("a"));
    const WorkerMessage hello = Leaving{4};
    worker.send(wire::encode(std::span(&hello, 1)));
    for (int i = 0; i < 600 && events.size() < 2; ++i) transport_.poll(milliseconds(100), events);
    ASSERT_EQ(events.size(), 2u);
  }
  const BrokerToWorker who = WhoAreYou{};
  bool client_gone = false, worker_gone = false;
  for (int i = 0; i < 6000 && !(client_gone && worker_gone); ++i) {
    for (const Event& e : events) {
      if (const auto* c = std::get_if<ClientEvent>(&e)) {
        client_gone = transport_.send(c->client, cancel("x")) == Delivery::gone;
      }
      if (const auto* w = std::get_if<WorkerEvent>(&e)) {
        transport_.send(w->worker, std::span(&who, 1));
      }
    }
    std::vector<Event> later;
    transport_.poll(milliseconds(10), later);
    for (const Event& e : later) {
      worker_gone = worker_gone || std::holds_alternative<WorkerUnreachable>(e);
    }
  }
  EXPECT_TRUE(client_gone);
  EXPECT_TRUE(worker_gone);
}

TEST_F(TransportTest, APortInUseIsToldClearly) {
  try {
    ZmqTransport second({transport_.frontend(), "tcp://127.0.0.1:*"});
    FAIL() << "two brokers on one port";
  } catch (const TransportError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("cannot listen on tcp://127.0.0.1:"));
    EXPECT_THAT(e.what(), testing::HasSubstr("another broker"));
  }
  try {
    ZmqTransport nowhere({"ipc:///no/such/folder/front", "tcp://127.0.0.1:*"});
    FAIL() << "a socket in no folder";
  } catch (const TransportError& e) {
    EXPECT_THAT(e.what(), testing::Not(testing::HasSubstr("another broker")));
  }
}

}  // namespace
}  // namespace limpet::broker
