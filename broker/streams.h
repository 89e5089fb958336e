// Who follows which job, and how far each has been told. A stream is either live (what happens is
// passed on) or behind (it is read from the store when its client takes frames again): a slow
// client stalls its own streams, holds no more than a few frames of memory, and misses nothing.
//
// Give it what the core sends, in order, after it is durable; then call flush(). One thread.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "broker/event.h"
#include "broker/store.h"
#include "broker/zmq_transport.h"

namespace limpet::broker {

class Streams {
 public:
  using Send = std::function<Delivery(ClientId, const std::string& frame)>;

  Streams(Store& store, Send send);
  ~Streams();

  void answer(ClientId client, BrokerToClient message);
  // Answers wait for this client, which does not read: it should get no large one now.
  bool unread(ClientId client) const;
  void open(const StreamOpened& opened);
  void close(const StreamClosed& closed);
  void event(JobEvent event);
  void forget(ClientId client);

  // Sends what has gathered, and more of what those behind have missed.
  void flush();

  bool behind() const { return !lagging_.empty(); }  // flush() again soon
  size_t streams() const;

 private:
  struct Client;
  struct Stream;
  using Followers = std::vector<Stream*>;

  Client& client(ClientId id);
  void pass(Stream& stream, JobEvent& event, bool last);
  void pass_row(Stream& stream, OutputRow& row, bool last);
  void push_tokens(Client& client, Tokens&& tokens);
  void fall_behind(Stream& stream);
  void end_stream(Stream& stream);
  void unfollow(const Stream& stream);
  void catch_up(Client& client);
  bool catch_up(Stream& stream);
  bool push_frames(Client& client);
  void encode_out(Client& client);
  void mark(Client& client);

  Store& store_;
  Send send_;
  std::unordered_map<ClientId, std::unique_ptr<Client>> clients_;
  std::unordered_map<JobNumber, Followers> followers_;
  std::vector<ClientId> touched_, lagging_;
};

}  // namespace limpet::broker
