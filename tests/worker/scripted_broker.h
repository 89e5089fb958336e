// A broker's socket in a test's hands: what the worker says comes out as messages, and the test
// says what is answered.
#pragma once
#include <gtest/gtest.h>
#include <zmq.h>

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "schema/wire.h"

namespace limpet::worker {

class ScriptedBroker {
 public:
  explicit ScriptedBroker(const std::string& endpoint = "tcp://127.0.0.1:*") {
    context_ = zmq_ctx_new();
    socket_ = zmq_socket(context_, ZMQ_ROUTER);
    const int now = 0;
    zmq_setsockopt(socket_, ZMQ_LINGER, &now, sizeof(now));
    // A port that was left a moment ago may take a little to be free again.
    for (int i = 0; i < 100 && zmq_bind(socket_, endpoint.c_str()) != 0; ++i) {
      zmq_poll(nullptr, 0, 20);
    }
    char text[256];
    size_t size = sizeof(text);
    if (zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, text, &size) == 0) endpoint_ = text;
  }
  ~ScriptedBroker() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  ScriptedBroker(const ScriptedBroker&) = delete;
  ScriptedBroker& operator=(const ScriptedBroker&) = delete;

  const std::string& endpoint() const { return endpoint_; }

  // The next message of a kind; others before it are passed over. Fails the test in a minute.
  template <typename M>
  M next() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < end) {
      while (!heard_.empty()) {
        const WorkerMessage m = std::move(heard_.front());
        heard_.pop_front();
        if (const auto* wanted = std::get_if<M>(&m)) return *wanted;
      }
      receive();
    }
    ADD_FAILURE() << "the worker does not say it";
    return {};
  }

  void send(const BrokerToWorker& message) {
    const std::string frame = wire::encode(std::span(&message, 1));
    send_raw(frame);
  }
  void send_raw(const std::string& frame) {
    zmq_send(socket_, peer_.data(), peer_.size(), ZMQ_SNDMORE);
    zmq_send(socket_, frame.data(), frame.size(), 0);
  }

  // Hears a Register and answers it.
  Register welcome(Registered answer = {}) {
    Register hello = next<Register>();
    answer.incarnation = hello.incarnation;
    answer.heartbeat_ms = 50;
    answer.lease_ms = 1000;
    send(answer);
    return hello;
  }

  struct Reply {
    JobStarted started;
    std::vector<Token> ids;
    std::string text;
    std::vector<std::vector<TokenLogprob>> logprobs;
    JobEnded end;
  };
  // A job to its end, acknowledged; stops early after `enough` tokens.
  Reply follow(JobNumber job, size_t enough = SIZE_MAX) {
    Reply reply;
    reply.started = next<JobStarted>();
    while (reply.ids.size() < enough && !::testing::Test::HasFailure()) {
      if (heard_.empty()) receive();
      if (heard_.empty()) continue;
      const WorkerMessage m = std::move(heard_.front());
      heard_.pop_front();
      if (const auto* tokens = std::get_if<StepTokens>(&m)) add(*tokens, job, reply);
      const auto* end = std::get_if<JobEnded>(&m);
      if (end == nullptr || end->job != job) continue;
      reply.end = *end;
      reply.text += end->tail_text;
      send(EndAck{job, end->attempt});
      break;
    }
    return reply;
  }

 private:
  static void add(const StepTokens& tokens, JobNumber job, Reply& reply) {
    for (const auto& row : tokens.rows) {
      if (row.job != job) continue;
      reply.ids.insert(reply.ids.end(), row.ids.begin(), row.ids.end());
      reply.text += row.text;
      reply.logprobs.insert(reply.logprobs.end(), row.logprobs.begin(), row.logprobs.end());
    }
  }

  void receive() {
    zmq_pollitem_t item{socket_, 0, ZMQ_POLLIN, 0};
    if (zmq_poll(&item, 1, 100) <= 0) return;
    const std::string from = part();
    const std::string frame = part();
    peer_ = from;
    std::vector<WorkerMessage> messages;
    const auto error = wire::decode(std::as_bytes(std::span(frame)), messages);
    EXPECT_EQ(error.code, ErrorCode::none) << error.message;
    for (auto& m : messages) heard_.push_back(std::move(m));
  }
  std::string part() {
    zmq_msg_t m;
    zmq_msg_init(&m);
    zmq_msg_recv(&m, socket_, 0);
    std::string bytes(static_cast<const char*>(zmq_msg_data(&m)), zmq_msg_size(&m));
    zmq_msg_close(&m);
    return bytes;
  }

  void* context_ = nullptr;
  void* socket_ = nullptr;
  std::string endpoint_, peer_;
  std::deque<WorkerMessage> heard_;
};

}  // namespace limpet::worker
