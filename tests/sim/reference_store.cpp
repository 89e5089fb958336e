#include "tests/sim/reference_store.h"

namespace limpet::sim {
namespace {

void demand(bool holds, const std::string& what) {
  if (!holds) throw Contradiction(what);
}

std::string tag(JobNumber job) { return "job " + std::to_string(raw(job)) + ": "; }
std::string tag(SessionNumber s) { return "session " + std::to_string(raw(s)) + ": "; }

}  // namespace

void ReferenceStore::commit(std::span<const JournalEntry> entries) {
  for (const JournalEntry& entry : entries) std::visit([this](const auto& e) { take(e); }, entry);
}

ReferenceStore::Job& ReferenceStore::live(JobNumber number, const char* what) {
  const auto it = jobs_.find(number);
  demand(it != jobs_.end(), tag(number) + what + " of a job never accepted");
  demand(!it->second.end, tag(number) + what + " after its end");
  return it->second;
}

ReferenceStore::Session& ReferenceStore::open(SessionNumber number, const char* what) {
  const auto it = sessions_.find(number);
  demand(it != sessions_.end(), tag(number) + what + " of a session never opened");
  demand(!it->second.closed, tag(number) + what + " after it was closed");
  return it->second;
}

void ReferenceStore::take(const broker::SessionOpened& e) {
  demand(e.session > last_session_, tag(e.session) + "its number was used before");
  demand(e.name.empty() || !names_.contains({e.tenant, e.name}),
         "a session's name is opened twice: " + e.name);
  last_session_ = e.session;
  sessions_[e.session].name = e.name;
  sessions_[e.session].tenant = e.tenant;
  if (!e.name.empty()) names_[{e.tenant, e.name}] = e.session;
}

void ReferenceStore::take(const broker::SessionTerms& e) {
  Session& s = open(e.session, "terms");
  s.keep_alive_ms = e.keep_alive_ms;
  s.max_tokens = e.max_tokens;
}

void ReferenceStore::take(const broker::JobAccepted& e) {
  demand(e.job > last_job_, tag(e.job) + "its number was used before");
  Session& session = open(e.session, "a job");
  const Owned id{session.tenant, e.spec->job_id};
  const auto known = ids_.find(id);
  if (e.replaces == JobNumber{}) {
    demand(known == ids_.end(), "a job's id is accepted twice: " + e.spec->job_id);
  } else {
    demand(known != ids_.end() && known->second == e.replaces &&
               jobs_[e.replaces].state == JobState::failed,
           tag(e.job) + "replaces what has not failed");
  }
  session.used_at = std::max(session.used_at, e.accepted_at);
  last_job_ = e.job;
  ids_[id] = e.job;
  jobs_[e.job].accepted = e;
  session.lane.push_back(e.job);
}

void ReferenceStore::take(const broker::HomeSet& e) {
  Session& s = open(e.session, "a home");
  demand(e.epoch > s.epoch, tag(e.session) + "its epoch does not grow");
  const bool in_flight = !s.lane.empty() && (jobs_[s.lane[0]].state == JobState::dispatched ||
                                             jobs_[s.lane[0]].state == JobState::running);
  demand(!in_flight, tag(e.session) + "its home changes under a job in flight");
  s.epoch = e.epoch;
  s.home = e.worker;
  s.incarnation = e.incarnation;
  s.reason = e.reason;
  s.model = e.model;
}

void ReferenceStore::take(const broker::JobDispatched& e) {
  Job& job = live(e.job, "dispatch");
  const Session& s = open(job.accepted.session, "dispatch");
  demand(s.lane.front() == e.job, tag(e.job) + "dispatched before an older job of its session");
  demand(job.state == JobState::queued, tag(e.job) + "dispatched twice");
  demand(raw(e.attempt) == raw(job.attempt) + 1,
         tag(e.job) + "attempts are not counted one by one");
  demand(!s.home.empty(), tag(e.job) + "dispatched without a durable home");
  job.attempt = e.attempt;
  job.owner = s.home;
  job.owner_incarnation = s.incarnation;
  job.cap = s.max_tokens;
  job.state = JobState::dispatched;
}

void ReferenceStore::take(const broker::JobRequeued& e) {
  Job& job = live(e.job, "requeue");
  demand(job.state != JobState::queued, tag(e.job) + "requeued while queued");
  job.state = JobState::queued;
  job.failures += e.failed;
}

void ReferenceStore::take(const broker::StartedEntry& e) {
  Job& job = live(e.job, "start");
  Session& s = open(job.accepted.session, "start");
  demand(job.state == JobState::dispatched, tag(e.job) + "started though not dispatched");
  demand(e.attempt == job.attempt, tag(e.job) + "started by another attempt");
  demand(e.has_prompt == !job.has_prompt, tag(e.job) + "its prompt is told twice, or never");
  demand(e.worker == s.home, tag(e.job) + "started by " + e.worker + ", not its home " + s.home);
  if (e.has_prompt) {
    const int64_t rewind = job.accepted.spec->rewind_to, all = std::ssize(s.transcript);
    job.base = rewind < 0 ? all : std::min(rewind, all);
    demand(e.base_tokens == job.base, tag(e.job) + "started from another length");
    job.cut.assign(s.transcript.begin() + job.base, s.transcript.end());
    s.transcript.resize(static_cast<size_t>(job.base));
    job.has_prompt = true;
    job.prompt = e.prompt;
    s.transcript.insert(s.transcript.end(), e.prompt.begin(), e.prompt.end());
  }
  demand(e.base_tokens == job.base, tag(e.job) + "started again from another length");
  job.state = JobState::running;
  job.cached = e.cached_tokens;
  job.starts.push_back(e);
  job.starts.back().prompt.clear();
  s.reason = Reason::none;
}

void ReferenceStore::take(const broker::TokensAppended& e) {
  for (const broker::OutputRow& row : e.rows) {
    Job& job = live(row.job, "tokens");
    Session& s = open(job.accepted.session, "tokens");
    demand(job.state == JobState::running, tag(row.job) + "tokens while it does not run");
    demand(row.first_index == std::ssize(job.output), tag(row.job) + "tokens out of order");
    demand(!row.ids.empty(), tag(row.job) + "an empty row");
    job.output.insert(job.output.end(), row.ids.begin(), row.ids.end());
    job.text += row.text;
    s.transcript.insert(s.transcript.end(), row.ids.begin(), row.ids.end());
    demand(s.max_tokens == 0 || std::ssize(s.transcript) <= s.max_tokens,
           tag(row.job) + "its session grows beyond its cap");
    demand(std::ssize(job.output) <= job.accepted.spec->max_tokens,
           tag(row.job) + "more tokens than it may make");
  }
}

void ReferenceStore::take(const broker::JobEndedEntry& e) {
  Job& job = live(e.job, "end");
  Session& s = open(job.accepted.session, "end");
  demand(is_terminal(e.state), tag(e.job) + "ended in a state that is no end");
  demand(e.usage.output_tokens == std::ssize(job.output), tag(e.job) + "ended with another count");
  demand(e.state != JobState::finished || (job.has_prompt && job.state != JobState::queued),
         tag(e.job) + "finished though it did not run");
  if (e.state == JobState::failed && job.has_prompt) {
    s.transcript.resize(static_cast<size_t>(job.base));
    s.transcript.insert(s.transcript.end(), job.cut.begin(), job.cut.end());
  }
  demand(e.session_tokens == std::ssize(s.transcript),
         tag(e.job) + "leaves " + std::to_string(e.session_tokens) + " tokens, not " +
             std::to_string(s.transcript.size()));
  s.used_at = std::max(s.used_at, e.ended_at);
  job.text += e.tail_text;
  job.state = e.state;
  job.end = e;
  std::erase(s.lane, e.job);
}

void ReferenceStore::take(const broker::SessionClosed& e) {
  Session& s = open(e.session, "close");
  demand(s.lane.empty(), tag(e.session) + "closed with jobs in its lane");
  s.closed = true;
  if (!s.name.empty()) names_.erase({s.tenant, s.name});
}

void ReferenceStore::take(const broker::SessionSnapshot&) {
  throw Contradiction("a running core must not append a snapshot");
}

void ReferenceStore::take(const broker::JobSnapshot&) {
  throw Contradiction("a running core must not append a snapshot");
}

void ReferenceStore::take(const broker::NumbersReserved& e) {
  last_job_ = std::max(last_job_, e.job);
  last_session_ = std::max(last_session_, e.session);
}

std::vector<JournalEntry> ReferenceStore::snapshot() const {
  std::vector<JournalEntry> all;
  all.push_back(broker::NumbersReserved{last_job_, last_session_});
  for (const auto& [number, s] : sessions_) {
    if (s.closed) continue;
    all.push_back(broker::SessionSnapshot{number, s.name, std::ssize(s.transcript), s.epoch, s.home,
                                          s.incarnation, s.reason, s.model, s.tenant,
                                          s.keep_alive_ms, s.max_tokens, s.used_at});
  }
  for (const auto& [number, job] : jobs_) {
    if (job.end) continue;
    all.push_back(broker::JobSnapshot{job.accepted, job.attempt, job.state, job.base,
                                      job.has_prompt ? std::ssize(job.prompt) : std::ptrdiff_t{-1},
                                      std::ssize(job.output), job.cached,
                                      job.base + std::ssize(job.cut), job.failures});
  }
  return all;
}

std::optional<broker::StoredJob> ReferenceStore::find_ended(const std::string& job_id,
                                                            const std::string& tenant) const {
  const Job* job = find(job_id, tenant);
  if (!job || !job->end) return std::nullopt;
  return broker::StoredJob{job->accepted.job, job->accepted.body_hash, job->state};
}

const ReferenceStore::Job* ReferenceStore::find(const std::string& job_id,
                                                const std::string& tenant) const {
  const auto it = ids_.find({tenant, job_id});
  return it == ids_.end() ? nullptr : find(it->second);
}

const ReferenceStore::Job* ReferenceStore::find(JobNumber job) const {
  const auto it = jobs_.find(job);
  return it == jobs_.end() ? nullptr : &it->second;
}

const ReferenceStore::Session* ReferenceStore::find(SessionNumber session) const {
  const auto it = sessions_.find(session);
  return it == sessions_.end() ? nullptr : &it->second;
}

std::vector<Token> ReferenceStore::transcript(JobNumber job) const {
  const Job* j = find(job);
  const Session* s = j ? find(j->accepted.session) : nullptr;
  return s ? s->transcript : std::vector<Token>{};
}

}  // namespace limpet::sim
