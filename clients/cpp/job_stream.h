// What a client knows of one job and asks of the broker next. Pure: time is an argument.
#pragma once
#include <vector>

#include "clients/cpp/client.h"

namespace limpet::client {

using Time = std::chrono::steady_clock::time_point;

class JobStream {
 public:
  // Without a spec the job must exist already.
  JobStream(std::string job_id, std::shared_ptr<const JobSpec> spec, int64_t from_index,
            Millis ask_again);

  const std::string& id() const { return job_id_; }
  bool over() const { return over_; }
  bool accepted() const { return accepted_; }

  // What to send now: Submit until it is acknowledged, Attach from the next index afterwards,
  // and the Cancel that is wanted. Sets due() into the future.
  void ask(Time now, std::vector<ClientMessage>& out);
  // When to ask again if nothing arrives before.
  Time due() const { return due_; }

  void cancel() { cancel_wanted_ = true; }

  // A message about this job. Appends what is new to the follower.
  void on(Time now, BrokerToClient message, std::vector<Event>& out);

  // The stream cannot go on.
  void give_up(std::string why, std::vector<Event>& out);

 private:
  void on_message(Time now, Accepted&& m, std::vector<Event>& out);
  void on_message(Time now, Refused&& m, std::vector<Event>& out);
  void on_message(Time now, Started&& m, std::vector<Event>& out);
  void on_message(Time now, Tokens&& m, std::vector<Event>& out);
  void on_message(Time now, Finished&& m, std::vector<Event>& out);
  void on_message(Time now, Failed&& m, std::vector<Event>& out);
  void on_message(Time, Listed&&, std::vector<Event>&) {}
  void on_message(Time, DrainStatus&&, std::vector<Event>&) {}
  void on_message(Time, Released&&, std::vector<Event>&) {}
  void on_message(Time, Retried&&, std::vector<Event>&) {}
  bool same_as_before(const Tokens& m) const;
  void accept(Tokens&& m, size_t text_from, std::vector<Event>& out);
  void learn_ends(const Tokens& m, size_t end_offset);
  void contradiction(std::string what, std::vector<Event>& out);
  void end(Event last, std::vector<Event>& out);
  int64_t next_index() const { return base_ + static_cast<int64_t>(ids_.size()); }
  int64_t offset_before(int64_t index) const;

  static constexpr int64_t kUnknown = -1;

  std::string job_id_;
  std::shared_ptr<const JobSpec> spec_;
  int64_t base_;  // the first index that the follower wanted
  Millis ask_again_, wait_;
  Time due_{};
  bool accepted_ = false, over_ = false, cancel_wanted_ = false;
  bool busy_told_ = false;
  bool replay_ = false;  // ask from base_: chunks came whose text cannot be aligned
  int64_t last_attempt_ = -1;
  int askings_at_end_ = 0;     // Finished came before all tokens
  std::vector<Token> ids_;     // from base_ on
  std::vector<int64_t> ends_;  // length of text_ after that token, kUnknown inside a chunk
  std::string text_;
};

}  // namespace limpet::client
