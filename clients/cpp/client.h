// The client library: submit jobs to a limpet broker and follow their streams.
//
//   limpet::client::Client client({.endpoint = "tcp://127.0.0.1:5555"});
//   limpet::JobSpec spec;
//   spec.job_id = "order-17";            // yours, and what makes the job idempotent
//   spec.messages = {{"user", "My name is Ada."}};
//   auto job = client.submit(spec);
//   while (!job.over()) {
//     if (auto event = job.next(std::chrono::seconds(1))) { … std::visit(…, *event); }
//   }
//
// What it does for you: it reconnects for ever; after a broken connection, a restart of the
// broker or a long silence it asks again for every open job from the next index, so that each
// token is given once and in order; a submission that was not acknowledged is sent again under
// its id; `busy` is told of and tried again after the told time; a token that contradicts an
// earlier one is never passed on but ends the job's stream with Lost.
//
// Threads: one thread of its own does all input and output. Every method may be called from any
// thread. Errors: a malformed endpoint, one on another machine
// without keys, or a key that cannot be used throws std::invalid_argument; all else are events.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "schema/messages.h"

namespace limpet::client {

using Millis = std::chrono::milliseconds;

struct Options {
  std::string endpoint = "tcp://127.0.0.1:5555";
  // Keys, needed for a broker on another machine: a file of one's own (`limpet keygen`), and the
  // broker's public key (a file, or the key itself). Both or neither.
  std::string key_file{}, server_public_key{};
  Millis ask_again{3000};  // a job without news is asked for again; doubles up to a minute
  Millis give_up{0};       // asked, and no word for this long: open jobs end as Lost; 0: never
};

// This side gave up on the stream. The job itself may go on: attach to it.
struct Lost {
  std::string job_id;
  bool contradiction = false;  // the broker told two different things about one index
  std::string message;
};

// The broker has no room for the job yet: it is asked again, for as long as it answers so. Told
// once for a job, before anything else of it.
struct Busy {
  std::string job_id;
  std::string message;
  int64_t retry_after_ms = 0;
};

// In this order: perhaps Busy; Accepted; then Started for each attempt and Tokens, whose indices
// follow one another without gap or repetition; at last one of Finished, Failed, Refused, Lost. The
// reply is the text of all Tokens; the last of them may bring text alone (Finished::tail_text comes
// so).
using Event = std::variant<Accepted, Started, Tokens, Finished, Failed, Refused, Lost, Busy>;
bool is_last(const Event& event);
// Refused for a reason that passes (the broker's disk, no worker for it): nothing was accepted,
// the same submission may be taken later. `busy` needs no such look: it is waited out here.
bool worth_another_try(const Event& last);

// Called on the client's thread, in order; must not block and must not destroy the Client.
using OnEvent = std::function<void(const Event&)>;

// A job that is followed. Destroying it stops following; it does not cancel the job.
class Job {
 public:
  Job(Job&&) noexcept;
  Job& operator=(Job&&) noexcept;
  ~Job();

  const std::string& id() const;

  // The next event; none when `timeout` has passed first or the stream is over. Events wait for
  // you without bound, which is at most the job's whole output. Not for jobs with a callback.
  std::optional<Event> next(Millis timeout);
  // The last event has been taken (or given to the callback).
  bool over() const;

  void cancel();  // asks; the answer is the job's last event

 private:
  friend class Client;
  struct State;
  explicit Job(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

class Client {
 public:
  explicit Client(const Options& options);
  ~Client();  // stops following every job; their `next` then gives nothing more
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // True as soon as the broker has answered the transport's greeting.
  bool wait_connected(Millis timeout);
  // Why the broker did not let us in, while it does not; empty: it did, or is not there.
  std::string refused() const;
  // How often a connection has been made: it grows when the broker or the network came back.
  int connections() const;

  // A job that is wrong by itself (wire::check) is refused without being sent. One id can be
  // followed once at a time by one Client: a second time is refused as invalid.
  Job submit(JobSpec spec, OnEvent on_event = {});
  // Follows a job that exists, from this token index on.
  Job attach(std::string job_id, int64_t from_index = 0, OnEvent on_event = {});

  struct Listing {
    std::string error;  // empty: fine
    Listed listed;
  };
  Listing list(limpet::Listing what, uint32_t limit, Millis timeout);
  Listing list(const List& what, Millis timeout);  // with filters

  // Asks a worker to hand over its sessions and to go, and tells how far it is. Asked again with
  // the incarnation that the first answer named, it never means the process that comes after it.
  struct Draining {
    std::string error;  // empty: fine
    DrainStatus status;
  };
  Draining drain(const std::string& worker, uint64_t incarnation, Millis timeout);

  // The session's KV may go: it will not be used for long. Its transcript stays. An admin may name
  // whose session it is.
  struct Releasing {
    std::string error;  // empty: fine
    Released status;
  };
  Releasing release(const std::string& session, Millis timeout, const std::string& tenant = "");

  // Does a job that has failed once more, last in its session's lane; attach to it for its stream,
  // which begins anew. Any other job is left as it is.
  struct Retrying {
    std::string error;  // empty: fine
    Retried status;
  };
  Retrying retry(const std::string& job_id, Millis timeout, const std::string& tenant = "");

 private:
  friend struct Job::State;
  class Loop;
  std::shared_ptr<Loop> loop_;
};

}  // namespace limpet::client
