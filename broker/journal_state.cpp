#include "broker/journal_state.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>

namespace limpet::broker {
namespace {

[[noreturn]] void bug(const std::string& what) { throw std::logic_error("journal: " + what); }

}  // namespace

void OutputChunk::append(const OutputRow& row) {
  if (row.first_index != end()) {
    bug("row of job " + std::to_string(raw(row.job)) + " at " + std::to_string(row.first_index) +
        ", expected " + std::to_string(end()));
  }
  if (!row.logprobs.empty() || !logprobs.empty()) {
    logprobs.resize(ids.size());
    logprobs.insert(logprobs.end(), row.logprobs.begin(), row.logprobs.end());
    logprobs.resize(ids.size() + row.ids.size());
  }
  ids.insert(ids.end(), row.ids.begin(), row.ids.end());
  text += row.text;
  pieces.push_back({static_cast<uint32_t>(row.ids.size()), static_cast<uint32_t>(row.text.size())});
}

void OutputChunk::append_chunk(const OutputChunk& next) {
  append({JobNumber{}, next.first, next.ids, next.text, next.logprobs});
  pieces.pop_back();
  pieces.insert(pieces.end(), next.pieces.begin(), next.pieces.end());
}

void OutputChunk::restart(int64_t at) {
  first = at;
  ids.clear();
  text.clear();
  pieces.clear();
  logprobs.clear();
}

OutputRow OutputChunk::from(JobNumber job, int64_t from) const {
  OutputRow row;
  row.job = job;
  row.first_index = std::max(from, first);
  size_t skip_text = 0;
  int64_t at = first;
  for (const Piece& piece : pieces) {
    if (at + piece.tokens > row.first_index) break;
    // A row without tokens carries text that belongs after the token before it.
    if (piece.tokens == 0 && at >= row.first_index) break;
    at += piece.tokens;
    skip_text += piece.text_bytes;
  }
  const auto skip = static_cast<ptrdiff_t>(row.first_index - first);
  row.ids.assign(ids.begin() + skip, ids.end());
  row.text.assign(text, skip_text);
  if (!logprobs.empty()) row.logprobs.assign(logprobs.begin() + skip, logprobs.end());
  return row;
}

size_t JournalState::OwnedIdHash::operator()(const OwnedIdView& n) const {
  const std::hash<std::string_view> hash;
  return hash(n.second) ^ (hash(n.first) * 0x9E3779B97F4A7C15ull);
}

JobHead* JournalState::find(JobNumber number) {
  auto it = jobs.find(number);
  return it == jobs.end() ? nullptr : &it->second;
}

JobHead& JournalState::job(JobNumber number) {
  JobHead* head = find(number);
  if (head == nullptr) bug("no live job " + std::to_string(raw(number)));
  return *head;
}

SessionHead& JournalState::session(SessionNumber number) {
  auto it = sessions.find(number);
  if (it == sessions.end()) bug("no session " + std::to_string(raw(number)));
  return it->second;
}

JobHead& JournalState::touch(JobNumber number) {
  JobHead& head = job(number);
  if (!head.touched) {
    head.touched = true;
    touched_jobs.push_back(number);
  }
  return head;
}

void JournalState::accept(const JobAccepted& e) {
  SessionHead& s = session(e.session);
  const std::string& tenant = s.tenant;
  s.used_at = std::max(s.used_at, e.accepted_at);
  if (e.replaces != JobNumber{}) replaced.push_back(e.replaces);
  auto [it, fresh] = jobs.try_emplace(e.job);
  if (!fresh || !by_id.try_emplace({tenant, e.spec->job_id}, e.job).second) {
    bug("job " + std::to_string(raw(e.job)) + " accepted twice");
  }
  JobHead& head = it->second;
  head.job = e.job;
  head.session = e.session;
  head.id = e.spec->job_id;
  head.tenant = tenant;
  head.spec = e.spec;
  head.body_hash = e.body_hash;
  head.seed = e.seed;
  head.accepted_at = e.accepted_at;
  head.deadline_at = e.deadline_at;
  head.is_new = head.changed = true;
  touch(e.job);
  highest_job = std::max(highest_job, e.job);
}

void JournalState::start(const StartedEntry& e) {
  JobHead& head = touch(e.job);
  head.state = JobState::running;
  head.attempt = e.attempt;
  head.has_started = head.changed = true;
  head.started = {e.job, e.attempt, e.worker, e.residency, e.reason,
                  e.cached_tokens, e.prefilled_tokens, e.base_tokens, false, {}};
  SessionHead& s = session(head.session);
  s.reason = Reason::none;  // its home has its KV from here on, over restarts too
  touched_sessions.push_back(head.session);
  if (!e.has_prompt) return;
  if (head.span.prompt >= 0) bug("job " + head.id + " told its prompt twice");
  head.span = {s.last_job, e.base_tokens, static_cast<int64_t>(e.prompt.size()), 0};
  head.prompt = e.prompt;
  head.new_prompt = true;
  s.last_job = e.job;
}

void JournalState::end(const JobEndedEntry& e) {
  JobHead& head = touch(e.job);
  if (auto s = sessions.find(head.session); s != sessions.end()) {
    // One that waits behind a running job ends without a word on that one's tokens.
    const bool behind = s->second.last_job != e.job && jobs.contains(s->second.last_job);
    if (!behind) s->second.tokens = e.session_tokens;
    s->second.used_at = std::max(s->second.used_at, e.ended_at);
    // A failed job is no part of the transcript: the next one follows what was before it.
    const bool counted = head.span.prompt >= 0 && s->second.last_job == e.job;
    if (counted && e.state == JobState::failed) s->second.last_job = head.span.previous;
    touched_sessions.push_back(head.session);
  }
  by_id.erase({head.tenant, head.id});
  ended.push_back({std::move(head), e});
  jobs.erase(e.job);
}

void JournalState::apply(const JournalEntry& entry) {
  const auto fold = [this](const auto& e) {
    using E = std::decay_t<decltype(e)>;
    if constexpr (std::is_same_v<E, SessionOpened>) {
      auto [it, fresh] = sessions.try_emplace(e.session);
      if (!fresh) bug("session " + std::to_string(raw(e.session)) + " opened twice");
      it->second.session = e.session;
      it->second.name = e.name;
      it->second.tenant = e.tenant;
      highest_session = std::max(highest_session, e.session);
      touched_sessions.push_back(e.session);
    } else if constexpr (std::is_same_v<E, SessionTerms>) {
      SessionHead& s = session(e.session);
      s.keep_alive_ms = e.keep_alive_ms;
      s.max_tokens = e.max_tokens;
      touched_sessions.push_back(e.session);
    } else if constexpr (std::is_same_v<E, JobAccepted>) {
      accept(e);
    } else if constexpr (std::is_same_v<E, HomeSet>) {
      SessionHead& s = session(e.session);
      s.epoch = e.epoch;
      s.home = e.worker;
      s.incarnation = e.incarnation;
      s.reason = e.reason;
      s.model = e.model;
      touched_sessions.push_back(e.session);
    } else if constexpr (std::is_same_v<E, JobDispatched>) {
      JobHead& head = touch(e.job);
      head.state = JobState::dispatched;
      head.attempt = e.attempt;
      head.worker = session(head.session).home;
      head.changed = true;
    } else if constexpr (std::is_same_v<E, JobRequeued>) {
      JobHead& head = touch(e.job);
      head.state = JobState::queued;
      head.why = e.why;
      head.failures += e.failed;
      head.changed = true;
    } else if constexpr (std::is_same_v<E, StartedEntry>) {
      start(e);
    } else if constexpr (std::is_same_v<E, TokensAppended>) {
      for (const OutputRow& row : e.rows) {
        JobHead& head = touch(row.job);
        if (head.span.prompt < 0) bug("tokens of job " + head.id + ", which has not started");
        head.tail.append(row);
        head.span.output = head.tail.end();
      }
    } else if constexpr (std::is_same_v<E, JobEndedEntry>) {
      end(e);
    } else if constexpr (std::is_same_v<E, SessionClosed>) {
      closed.push_back(std::move(session(e.session)));
      sessions.erase(e.session);
    } else if constexpr (std::is_same_v<E, NumbersReserved>) {
      highest_job = std::max(highest_job, e.job);
      highest_session = std::max(highest_session, e.session);
    } else {
      bug("a snapshot entry is made by the store, not given to it");
    }
  };
  std::visit(fold, entry);
}

}  // namespace limpet::broker
