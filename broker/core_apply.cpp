// Durable state changes here and nowhere else, so recovery runs what the running broker ran.
#include <stdexcept>

#include "broker/core_state.h"

namespace limpet::broker {

void Core::State::commit(Turn& t, JournalEntry entry) {
  t.out.append.push_back(std::move(entry));
  apply(t.out.append.back());
}

void Core::State::apply(const JournalEntry& entry) {
  std::visit([this](const auto& e) { apply_one(e); }, entry);
}

void Core::State::apply_one(const SessionOpened& e) {
  sessions.open(e.session, e.name, tenants.of(e.tenant));
  last_session = std::max(last_session, e.session);
}

void Core::State::apply_one(const SessionTerms& e) {
  Session& session = sessions.at(e.session);
  session.keep_alive_ms = e.keep_alive_ms;
  session.max_tokens = e.max_tokens;
}

void Core::State::apply_one(const JobAccepted& e) {
  Session& session = sessions.at(e.session);
  jobs.add(e, session);
  sessions.begin_use(session);
  session.used_at = std::max(session.used_at, e.accepted_at);
  last_job = std::max(last_job, e.job);
}

void Core::State::set_home(Session& session, const std::string& worker, uint64_t incarnation) {
  if (session.home != kNoWorker) {
    Worker& old = workers.at(session.home);
    --old.homes;
    if (--old.homes_of[session.incarnation] == 0) old.homes_of.erase(session.incarnation);
    session.home = kNoWorker;
    SessionTable::rouse(session);
    if (old.homes == 0) unused.push_back(old.slot);
  }
  session.incarnation = incarnation;
  if (worker.empty()) return;
  Worker& home = workers.slot(worker);
  session.home = home.slot;
  ++home.homes;
  ++home.homes_of[incarnation];
}

void Core::State::apply_one(const HomeSet& e) {
  Session& session = sessions.at(e.session);
  if (e.epoch <= session.epoch) throw std::logic_error("a session's epoch must grow");
  set_home(session, e.worker, e.incarnation);
  session.epoch = e.epoch;
  session.reason = e.reason;
  session.model = e.model;
  session.migrated = false;
}

void Core::State::apply_one(const JobDispatched& e) {
  Job& job = jobs.at(e.job);
  if (job.session->first != &job) throw std::logic_error("dispatched before its lane's first job");
  job.attempt = e.attempt;
  jobs.set_state(job, JobState::dispatched);
  job.session->in_flight = true;
}

void Core::State::apply_one(const JobRequeued& e) {
  Job& job = jobs.at(e.job);
  jobs.set_state(job, JobState::queued);
  job.why = e.why;
  job.failures += e.failed;
  job.session->in_flight = false;
}

void Core::State::apply_one(const StartedEntry& e) {
  Job& job = jobs.at(e.job);
  if (e.attempt != job.attempt) throw std::logic_error("start of an attempt that is over");
  jobs.set_state(job, JobState::running);
  job.base_tokens = e.base_tokens;
  job.cached_tokens = e.cached_tokens;
  if (e.has_prompt) {
    job.session_tokens = job.session->tokens;
    job.prompt_tokens = static_cast<int64_t>(e.prompt.size());
    job.session->tokens = e.base_tokens + job.prompt_tokens;
  }
  job.session->reason = Reason::none;
}

void Core::State::apply_one(const TokensAppended& e) {
  for (const OutputRow& row : e.rows) {
    Job& job = jobs.at(row.job);
    if (row.first_index != job.output_tokens) throw std::logic_error("tokens out of order");
    const int64_t n = static_cast<int64_t>(row.ids.size());
    job.output_tokens += n;
    job.session->tokens += n;
  }
}

void Core::State::apply_one(const JobEndedEntry& e) {
  Job& job = jobs.at(e.job);
  Session& session = *job.session;
  session.tokens = e.session_tokens;
  if (session.first == &job) session.in_flight = false;
  session.used_at = std::max(session.used_at, e.ended_at);
  jobs.end(job, e.state);
  if (!session.first) sessions.end_use(session);
}

void Core::State::apply_one(const SessionClosed& e) {
  set_home(sessions.at(e.session), "", 0);
  sessions.close(e.session);
}

void Core::State::apply_one(const SessionSnapshot& e) {
  Session& session = sessions.open(e.session, e.name, tenants.of(e.tenant));
  session.tokens = e.tokens;
  session.epoch = e.epoch;
  session.reason = e.reason;
  session.model = e.model;
  session.keep_alive_ms = e.keep_alive_ms;
  session.max_tokens = e.max_tokens;
  session.used_at = e.used_at;
  sessions.end_use(session);  // until a job of its is found
  set_home(session, e.home, e.incarnation);
  last_session = std::max(last_session, e.session);
}

void Core::State::apply_one(const JobSnapshot& e) {
  apply_one(e.accepted);
  Job& job = jobs.at(e.accepted.job);
  job.attempt = e.attempt;
  job.base_tokens = e.base_tokens;
  job.prompt_tokens = e.prompt_tokens;
  job.output_tokens = e.output_tokens;
  job.cached_tokens = e.cached_tokens;
  job.session_tokens = e.session_tokens;
  job.failures = e.failures;
  if (e.state == JobState::queued) return;
  jobs.set_state(job, e.state);
  job.session->in_flight = true;
}

void Core::State::apply_one(const NumbersReserved& e) {
  last_job = std::max(last_job, e.job);
  last_session = std::max(last_session, e.session);
}

}  // namespace limpet::broker
