#include "broker/streams.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <deque>

#include "broker/listing.h"
#include "probes/log_value.h"
#include "schema/wire.h"

namespace limpet::broker {
namespace {

using probes::log_value;

constexpr size_t kCatchUpBytes = 64u << 10;   // read for a client in one flush
constexpr int kCatchUpStreams = 1024;         // looked up for a client in one flush
constexpr size_t kMostGathered = 1u << 20;    // bytes for a client between two flushes
constexpr size_t kMostUnread = 4u << 20;      // bytes for a client that does not read
constexpr size_t kFrameBytes = 1u << 20;      // of several messages, about; one may be larger

size_t weight(const OutputRow& row) {
  return 64 + row.ids.size() * sizeof(Token) + row.text.size() +
         row.logprobs.size() * Limits::kLogprobs * sizeof(TokenLogprob);
}

size_t weight(const BrokerToClient& message) {
  constexpr size_t kSmall = 128;
  if (const auto* t = std::get_if<Tokens>(&message)) {
    return kSmall + t->job_id.size() + t->ids.size() * sizeof(Token) + t->text.size() +
           t->logprobs.size() * Limits::kLogprobs * sizeof(TokenLogprob);
  }
  if (const auto* l = std::get_if<Listed>(&message)) {
    size_t n = kSmall;
    for (const JobInfo& j : l->jobs) n += listed_bytes(j);
    for (const SessionInfo& s : l->sessions) n += listed_bytes(s);
    for (const WorkerInfo& w : l->workers) n += listed_bytes(w);
    return n;
  }
  if (const auto* f = std::get_if<Failed>(&message)) return kSmall + f->message.size();
  if (const auto* f = std::get_if<Finished>(&message)) return kSmall + f->tail_text.size();
  if (const auto* r = std::get_if<Refused>(&message)) {
    return kSmall + r->job_id.size() + r->message.size();
  }
  return kSmall + Limits::kName;
}

// In place of a message that no frame can hold.
BrokerToClient too_large(const BrokerToClient& message) {
  const std::string* id = nullptr;
  if (const auto* t = std::get_if<Tokens>(&message)) id = &t->job_id;
  if (const auto* f = std::get_if<Finished>(&message)) id = &f->job_id;
  if (const auto* f = std::get_if<Failed>(&message)) id = &f->job_id;
  return Refused{id ? *id : "", ErrorCode::too_large, "what there is to tell exceeds a frame", 0};
}

BrokerToClient outcome(const std::string& job_id, JobEndedEntry&& e) {
  if (e.state == JobState::failed) return Failed{job_id, e.code, std::move(e.message)};
  return Finished{job_id, e.reason, e.usage, e.timings, std::move(e.tail_text)};
}

BrokerToClient told(const std::string& job_id, const StartedEntry& e) {
  return Started{job_id, e.worker, e.residency, e.reason, e.cached_tokens, e.prefilled_tokens,
                 static_cast<int32_t>(raw(e.attempt))};
}

}  // namespace

struct Streams::Stream {
  Client* client = nullptr;
  JobNumber job{};
  std::string job_id;
  int64_t next = 0;        // index of the first token not told yet
  Attempt told_attempt{};  // of the last Started
  bool tokens = true;
  bool behind = true;
};

struct Streams::Client {
  ClientId id{};
  std::unordered_map<std::string, Stream> streams;  // by job id
  std::vector<std::string> behind;                  // job ids; some may have gone meanwhile
  std::vector<BrokerToClient> out;
  size_t out_bytes = 0;
  std::deque<std::string> frames;  // encoded, not taken yet: the client is slow
  size_t frame_bytes = 0;          // of these
  bool touched = false, gone = false;
};

Streams::Streams(Store& store, Send send) : store_(store), send_(std::move(send)) {}
Streams::~Streams() = default;

size_t Streams::streams() const {
  size_t n = 0;
  for (const auto& [id, c] : clients_) n += c->streams.size();
  return n;
}

Streams::Client& Streams::client(ClientId id) {
  auto& c = clients_[id];
  if (!c) {
    c = std::make_unique<Client>();
    c->id = id;
  }
  return *c;
}

void Streams::mark(Client& c) {
  if (!c.touched) touched_.push_back(c.id);
  c.touched = true;
}

void Streams::answer(ClientId id, BrokerToClient message) {
  Client& c = client(id);
  mark(c);
  const size_t bytes = weight(message);
  if (!c.frames.empty() && c.frame_bytes + c.out_bytes + bytes > kMostUnread) {
    if (!c.gone) spdlog::warn("event=client_dropped why=\"it asks and does not read\"");
    c.gone = true;  // it will ask again: requests are idempotent
    return;
  }
  c.out_bytes += bytes;
  c.out.push_back(std::move(message));
}

bool Streams::unread(ClientId id) const {
  const auto it = clients_.find(id);
  return it != clients_.end() && !it->second->frames.empty();
}

void Streams::open(const StreamOpened& o) {
  Client& c = client(o.client);
  auto [it, fresh] = c.streams.try_emplace(o.job_id);
  Stream& s = it->second;
  if (fresh) {
    s.client = &c;
    s.job = o.job;
    s.job_id = o.job_id;
    followers_[o.job].push_back(&s);
    s.behind = false;
  } else if (s.job != o.job) {  // the id is done again, by another job
    unfollow(s);
    s.job = o.job;
    followers_[o.job].push_back(&s);
  }
  s.next = o.from_index;
  s.told_attempt = Attempt{};
  s.tokens = o.tokens;
  fall_behind(s);
}

void Streams::close(const StreamClosed& closed) {
  auto it = clients_.find(closed.client);
  if (it == clients_.end()) return;
  auto stream = it->second->streams.find(closed.job_id);
  if (stream != it->second->streams.end()) end_stream(stream->second);
}

void Streams::forget(ClientId id) {
  auto it = clients_.find(id);
  if (it == clients_.end()) return;
  for (const auto& [job_id, stream] : it->second->streams) unfollow(stream);
  clients_.erase(it);
}

void Streams::unfollow(const Stream& stream) {
  auto it = followers_.find(stream.job);
  if (it == followers_.end()) return;
  std::erase(it->second, &stream);
  if (it->second.empty()) followers_.erase(it);
}

void Streams::end_stream(Stream& stream) {
  unfollow(stream);
  const std::string job_id = stream.job_id;
  stream.client->streams.erase(job_id);
}

void Streams::fall_behind(Stream& stream) {
  if (stream.behind) return;
  stream.behind = true;
  stream.client->behind.push_back(stream.job_id);
  mark(*stream.client);
}

void Streams::event(JobEvent event) {
  auto it = followers_.find(event.job);
  if (it == followers_.end()) return;
  if (it->second.size() == 1) return pass(*it->second.front(), event, true);
  const Followers all = it->second;  // ending a stream changes the list
  for (Stream* stream : all) pass(*stream, event, false);
}

void Streams::pass(Stream& s, JobEvent& event, bool last) {
  Client& c = *s.client;
  if (s.behind) return;
  const bool ended = std::holds_alternative<JobEndedEntry>(event.what);
  if (!ended && !s.tokens) return;
  if (!c.frames.empty() || c.out_bytes > kMostGathered) return fall_behind(s);
  mark(c);
  if (auto* row = std::get_if<OutputRow>(&event.what)) {
    pass_row(s, *row, last);
  } else if (auto* started = std::get_if<StartedEntry>(&event.what)) {
    c.out.push_back(told(s.job_id, *started));
    s.told_attempt = started->attempt;
  } else {
    c.out.push_back(outcome(s.job_id, JobEndedEntry(std::get<JobEndedEntry>(event.what))));
    end_stream(s);
  }
}

void Streams::pass_row(Stream& s, OutputRow& row, bool last) {
  Client& c = *s.client;
  const int64_t end = row.first_index + static_cast<int64_t>(row.ids.size());
  if (end <= s.next) return;
  if (row.first_index > s.next) return fall_behind(s);
  c.out_bytes += weight(row);
  Tokens t{s.job_id, s.next, {}, {}, {}};
  const auto skip = static_cast<ptrdiff_t>(s.next - row.first_index);
  if (last && skip == 0) {
    t.ids = std::move(row.ids);
    t.text = std::move(row.text);
    t.logprobs = std::move(row.logprobs);
  } else {
    t.ids.assign(row.ids.begin() + skip, row.ids.end());
    t.text = row.text;  // belongs to the row as a whole
    if (!row.logprobs.empty()) t.logprobs.assign(row.logprobs.begin() + skip, row.logprobs.end());
  }
  s.next = end;
  push_tokens(c, std::move(t));
}

// In as many messages as frames ask for. The text belongs to the row as a whole, so it is told
// with the last of them: whoever comes back from within gets it there.
void Streams::push_tokens(Client& c, Tokens&& t) {
  const size_t per_token =
      sizeof(Token) + (t.logprobs.empty() ? 0 : Limits::kLogprobs * sizeof(TokenLogprob));
  const size_t most = kFrameBytes / per_token;
  if (t.ids.size() <= most) {
    c.out.push_back(std::move(t));
    return;
  }
  for (size_t at = 0; at < t.ids.size(); at += most) {
    const size_t end = std::min(at + most, t.ids.size());
    Tokens part{t.job_id, t.first_index + static_cast<int64_t>(at), {}, {}, {}};
    const auto from = static_cast<ptrdiff_t>(at), to = static_cast<ptrdiff_t>(end);
    part.ids.assign(t.ids.begin() + from, t.ids.begin() + to);
    if (!t.logprobs.empty()) {
      part.logprobs.assign(t.logprobs.begin() + from, t.logprobs.begin() + to);
    }
    if (end == t.ids.size()) part.text = std::move(t.text);
    c.out.push_back(std::move(part));
  }
}

// True when the stream has been told all that is stored; it may have ended with that.
bool Streams::catch_up(Stream& s) {
  Client& c = *s.client;
  auto progress = store_.progress(s.job);
  if (!progress) {  // known to the core, so it was stored; its time is over, or it is lost
    c.out.push_back(Failed{s.job_id, ErrorCode::storage, "the job is not in the store any more"});
    end_stream(s);
    return true;
  }
  if (s.tokens && progress->started && progress->started->attempt > s.told_attempt) {
    c.out.push_back(told(s.job_id, *progress->started));
    s.told_attempt = progress->started->attempt;
  }
  if (s.tokens && s.next < progress->output_tokens) {
    store_.read_output(s.job, s.next, [&](OutputRow&& row) {
      pass_row(s, row, true);
      return c.out_bytes < kCatchUpBytes;
    });
    if (s.next < progress->output_tokens) return false;
  }
  if (is_terminal(progress->state)) {
    c.out.push_back(outcome(s.job_id, std::move(*progress->ended)));
    end_stream(s);
  } else {
    s.behind = false;
  }
  return true;
}

void Streams::catch_up(Client& c) {
  for (int n = 0; n < kCatchUpStreams && !c.behind.empty() && c.out_bytes < kCatchUpBytes; ++n) {
    auto it = c.streams.find(c.behind.back());
    if (it != c.streams.end() && it->second.behind && !catch_up(it->second)) {
      std::rotate(c.behind.begin(), c.behind.end() - 1, c.behind.end());  // others have their turn
      return;
    }
    c.behind.pop_back();
  }
}

// Frames of about kFrameBytes: the transport counts what it holds for a client in frames.
void Streams::encode_out(Client& c) {
  const std::span<const BrokerToClient> all(c.out);
  const auto encode = [&](size_t from, size_t to) {
    for (std::string& frame : wire::encode_frames(all.subspan(from, to - from))) {
      c.frame_bytes += frame.size();
      c.frames.push_back(std::move(frame));
    }
  };
  size_t from = 0, bytes = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const size_t n = weight(all[i]);
    if (bytes > 0 && bytes + n > kFrameBytes) {
      encode(from, i);
      from = i;
      bytes = 0;
    }
    bytes += n;
    if (n <= kFrameBytes) continue;
    try {  // alone in its frame
      encode(i, i + 1);
    } catch (const std::length_error& error) {
      spdlog::error("event=message_dropped why={}", log_value(error.what()));
      const BrokerToClient instead = too_large(all[i]);
      c.frames.push_back(wire::encode(std::span(&instead, 1)));
      c.frame_bytes += c.frames.back().size();
    }
    from = i + 1;
    bytes = 0;
  }
  if (from < all.size()) encode(from, all.size());
  c.out.clear();
  c.out_bytes = 0;
}

// False when the client is slow or gone.
bool Streams::push_frames(Client& c) {
  if (c.frames.empty() && !c.out.empty()) encode_out(c);
  while (!c.frames.empty()) {
    const Delivery d = send_(c.id, c.frames.front());
    c.gone = d == Delivery::gone;
    if (d != Delivery::sent) return false;
    c.frame_bytes -= c.frames.front().size();
    c.frames.pop_front();
  }
  return true;
}

void Streams::flush() {
  std::vector<ClientId> now;
  now.swap(touched_);
  for (const ClientId id : lagging_) {
    auto it = clients_.find(id);
    if (it == clients_.end() || it->second->touched) continue;
    now.push_back(id);
  }
  lagging_.clear();
  for (const ClientId id : now) {
    auto it = clients_.find(id);
    if (it == clients_.end()) continue;
    Client& c = *it->second;
    c.touched = false;
    if (!c.gone && c.frames.empty()) catch_up(c);
    if (!c.gone && push_frames(c) && !c.behind.empty()) {
      catch_up(c);
      push_frames(c);
    }
    if (c.gone) {
      forget(id);
    } else if (!c.frames.empty() || !c.behind.empty() || !c.out.empty()) {
      lagging_.push_back(id);
    } else if (c.streams.empty()) {
      clients_.erase(it);
    }
  }
}

}  // namespace limpet::broker
