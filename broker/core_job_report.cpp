// What workers say of jobs. Only the current attempt, at its session's home, is believed.
#include <algorithm>

#include "broker/core_state.h"

namespace limpet::broker {

// Null, and the worker is told to forget it, when this attempt is not (or no longer) wanted.
Job* Core::State::current(Turn& t, Worker& worker, JobNumber number, Attempt attempt,
                          std::string_view what) {
  Job* job = jobs.find(number);
  if (job && job->in_flight() && job->worker == worker.slot && job->attempt == attempt) return job;
  fact(t, Fact::Kind::stale_message, worker.name, what);
  // Of an orphan the worker has been told; heartbeats tell it again should that be lost.
  if (!worker.in_flight.contains({number, attempt})) send(t, worker, EndAck{number, attempt});
  return nullptr;
}

// Something was lost on the way: the worker sends the start, the tokens from here and the end
// again.
void Core::State::ask_again(Turn& t, Worker& worker, Job& job) {
  if (t.now.mono < job.ask_after) return;  // it is being answered
  job.ask_after = t.now.mono + options.heartbeat;
  send(t, worker, ResumeJob{job.number, job.attempt, job.output_tokens});
}

void Core::State::need_transcript(Turn& t, Worker& worker, const NeedTranscript& m) {
  const Job* job = current(t, worker, m.job, m.attempt, "need_transcript");
  if (!job) return;
  send(t, worker, TranscriptReply{m.job, m.attempt, {}}, true,
       job->prompt_tokens < 0 ? job->base() : -1);
}

void Core::State::job_started(Turn& t, Worker& worker, const JobStarted& m) {
  Job* job = current(t, worker, m.job, m.attempt, "job_started");
  if (!job) return;
  if (job->state == JobState::running) {  // told again: perhaps to a broker that has restarted
    job->residency = m.residency;
    return;
  }
  StartedEntry entry;
  entry.job = job->number;
  entry.attempt = job->attempt;
  entry.worker = worker.name;
  entry.residency = m.residency;
  entry.reason = m.reason;
  entry.cached_tokens = std::max<int64_t>(m.cached_tokens, 0);
  entry.prefilled_tokens = std::max<int64_t>(m.prefilled_tokens, 0);
  entry.base_tokens = job->base();
  entry.has_prompt = job->prompt_tokens < 0;
  if (entry.has_prompt) {
    const int64_t before = entry.base_tokens + std::ssize(m.prompt);
    const int64_t cap = job->session->max_tokens;
    const bool beyond = cap > 0 && before >= cap;
    if (beyond || before > static_cast<int64_t>(Limits::kTokens)) {
      workers.over(worker, {job->number, job->attempt});
      gained.push_back(worker.slot);
      send(t, worker, EndAck{job->number, job->attempt});
      detach_attempt(t, *job, false);
      return fail(t, *job, ErrorCode::too_long,
                  beyond ? beyond_cap(*job->session, before, true)
                         : "the session would exceed " + std::to_string(Limits::kTokens) +
                               " tokens");
    }
    entry.prompt = m.prompt;
  }
  t.out.send.push_back(JobEvent{job->number, job->spec, entry});
  commit(t, std::move(entry));
  job->silent_since = t.now.mono;
  job->start_by = Time::max();
  job->residency = m.residency;
  job->prefilled = std::max<int64_t>(m.prefilled_tokens, 0);
  const int64_t need = kv_need(*job, worker);
  job->session->tenant->promised += need - job->kv_promised;
  job->kv_promised = need;
  workers.promise(worker, {job->number, job->attempt}, need);
  gained.push_back(worker.slot);
  t.out.facts.push_back({Fact::Kind::dispatched, job->id(), std::string(name(m.reason)), 0,
                         job->base_tokens > 0, m.residency});
}

void Core::State::flush(Turn& t, TokensAppended& entry) {
  if (entry.rows.empty()) return;
  const size_t at = t.out.append.size();
  commit(t, std::move(entry));
  entry.rows.clear();
  for (const OutputRow& row : std::get<TokensAppended>(t.out.append[at]).rows) {
    Job& job = jobs.at(row.job);
    job.silent_since = t.now.mono;
    if (row.first_index == 0) {
      job.first_token_seconds = seconds_between(job.accepted, t.now.mono);
      t.out.facts.push_back({Fact::Kind::first_token,
                             job.id(),
                             {},
                             job.first_token_seconds,
                             job.base_tokens > 0,
                             job.residency});
    }
    t.out.send.push_back(JobEvent{row.job, job.spec, row});
  }
}

void Core::State::step_tokens(Turn& t, Worker& worker, const StepTokens& m) {
  TokensAppended entry;
  entry.rows.reserve(m.rows.size());
  ++step_mark;
  for (const StepRow& row : m.rows) {
    Job* job = current(t, worker, row.job, row.attempt, "step_tokens");
    if (!job) continue;
    if (job->step_mark == step_mark) {  // a second row of it: counts must be up to date
      flush(t, entry);
      ++step_mark;
    }
    if (!take_row(t, row, *job, entry)) ask_again(t, worker, *job);
  }
  flush(t, entry);
}

// False when something before this row is missing. What is known already is left aside; a row
// that is only partly new is asked for again from where the new begins, since its text cannot be
// cut at a token.
bool Core::State::take_row(Turn&, const StepRow& row, Job& job, TokensAppended& entry) {
  const int64_t n = std::ssize(row.ids);
  if (job.state != JobState::running || row.first_index > job.output_tokens) return false;
  if (row.first_index < 0 || n == 0 || n > static_cast<int64_t>(Limits::kTokens)) return true;
  if (row.first_index + n <= job.output_tokens) return true;
  if (row.first_index < job.output_tokens) return false;
  if (job.output_tokens + n > job.spec->max_tokens) return true;  // more than it may ever make
  const int64_t cap = job.session->max_tokens;
  if (cap > 0 && job.session->tokens + n > cap) return true;
  job.step_mark = step_mark;
  entry.rows.push_back({job.number, row.first_index, row.ids, row.text, row.logprobs});
  return true;
}

void Core::State::job_ended(Turn& t, Worker& worker, const JobEnded& m) {
  const JobAttempt attempt{m.job, m.attempt};
  const auto it = worker.in_flight.find(attempt);
  const bool orphan = it != worker.in_flight.end() && it->second.orphan;
  if (orphan) {  // it has let go
    workers.over(worker, attempt);
    gained.push_back(worker.slot);
  }
  Job* job = current(t, worker, m.job, m.attempt, "job_ended");
  if (!job) return;
  const bool by_itself = m.reason == FinishReason::stop || m.reason == FinishReason::length;
  // An attempt that finds the output complete ends without a start of its own.
  const bool begun = job->state == JobState::running || job->prompt_tokens >= 0;
  if (m.ok && by_itself && (!begun || m.output_tokens > job->output_tokens)) {
    return ask_again(t, worker, *job);  // the end has overtaken what comes before it
  }
  send(t, worker, EndAck{m.job, m.attempt});
  workers.over(worker, attempt);
  gained.push_back(worker.slot);
  if (m.ok && by_itself && m.output_tokens == job->output_tokens) {
    detach_attempt(t, *job, false);
    JobEndedEntry entry;
    entry.state = JobState::finished;
    entry.reason = m.reason;
    entry.tail_text = m.tail_text;
    entry.session_tokens = job->session->tokens;
    return end_job(t, *job, std::move(entry));
  }
  if (!m.ok && !m.retryable) {
    detach_attempt(t, *job, false);
    return fail(t, *job, m.code == ErrorCode::none ? ErrorCode::worker_error : m.code, m.message);
  }
  job->avoid = worker.slot;
  job->move = Reason::worker_lost;
  // A worker that had no place after all, or is leaving, has not tried.
  const bool tried = m.ok || m.code != ErrorCode::busy;
  if (!tried) {  // it has less room than it was believed to have, until it tells anew
    worker.room.slots = 0;
    worker.freed = 0;
    workers.rank(worker);
  }
  end_attempt(t, *job, m.ok ? "ended_early" : "worker_error: " + m.message,
              tried ? Counts::yes : Counts::no, false);
}

}  // namespace limpet::broker
