// The end of attempts and of jobs.
#include <algorithm>

#include "broker/core_state.h"

namespace limpet::broker {
namespace {

// An attempt that was never begun counts for little: so many of them for one that failed.
constexpr uint32_t kUnstarted = 20;

}  // namespace

// The worker may go on for a while; its reports of this attempt change nothing any more.
void Core::State::detach_attempt(Turn& t, Job& job, bool tell_worker) {
  Worker& worker = workers.at(job.worker);
  const JobAttempt attempt{job.number, job.attempt};
  end_share(job);
  job.worker = kNoWorker;
  job.start_by = Time::max();
  const auto it = worker.in_flight.find(attempt);
  if (it == worker.in_flight.end()) return;
  if (!tell_worker) return workers.forgotten(worker, attempt);
  it->second.orphan = true;  // it keeps its place until the worker is known to have let go
  send(t, worker, CancelJob{job.number, attempt.attempt});
}

void Core::State::end_attempt(Turn& t, Job& job, std::string why, Counts counts,
                              bool tell_worker) {
  Session& session = *job.session;
  detach_attempt(t, job, tell_worker);
  fact(t, Fact::Kind::requeued, job.id(), why);
  const bool failed = counts == Counts::yes;
  const bool too_many = failed && job.failures + 1 >= options.max_attempts;
  if (too_many || raw(job.attempt) >= kUnstarted * static_cast<uint32_t>(options.max_attempts)) {
    return fail(t, job, ErrorCode::attempts_exhausted,
                too_many ? std::to_string(job.failures + 1) + " attempts failed, the last by " + why
                         : std::to_string(raw(job.attempt)) +
                               " attempts came to nothing, the last by " + why);
  }
  commit(t, JobRequeued{job.number, std::move(why), failed});
  look_everywhere(*session.tenant);
  SessionTable::rest(session);
  make_ready(t, session);
}

void Core::State::end_job(Turn& t, Job& job, JobEndedEntry entry) {
  Session& session = *job.session;
  const bool first = session.first == &job;
  if (first) unready(session);
  // A worker that has been given a rewind has cut its copy of the transcript, which stays whole.
  const bool given = raw(job.attempt) > 0 && entry.state != JobState::finished;
  const bool cut = given && job.base() < entry.session_tokens &&
                   (job.prompt_tokens < 0 || entry.state == JobState::failed);
  const int64_t prompt = std::max<int64_t>(job.prompt_tokens, 0);
  entry.job = job.number;
  const int64_t prompt_tokens = prompt + (prompt ? job.base_tokens : 0);
  // A later attempt had output of the one before at hand, too.
  entry.usage = {prompt_tokens, std::min(job.cached_tokens, prompt_tokens), job.output_tokens};
  entry.timings = {job.queue_seconds, job.first_token_seconds,
                   seconds_between(job.accepted, t.now.mono)};
  entry.ended_at = t.now.wall;
  fact(t, Fact::Kind::job_ended, job.id(), name(entry.state), entry.timings.total);
  t.out.send.push_back(JobEvent{job.number, job.spec, entry});
  commit(t, std::move(entry));  // the job is gone
  look_everywhere(*session.tenant);
  if (session.ephemeral()) return commit(t, SessionClosed{session.number});
  if (cut && session.home != kNoWorker) {  // so the next dispatch to it brings the transcript
    commit(t, HomeSet{session.number, Epoch{raw(session.epoch) + 1},
                      workers.at(session.home).name, session.incarnation, Reason::rewound,
                      session.model});
  }
  if (!session.in_flight) SessionTable::rest(session);
  if (session.tenant->policy.max_resident_tokens > 0) caps_due.push_back(session.tenant);
  if (first && session.first) make_ready(t, session);
  if (!session.in_flight) keep(t, session);
}

void Core::State::fail(Turn& t, Job& job, ErrorCode code, std::string message) {
  JobEndedEntry entry;
  entry.state = JobState::failed;
  entry.code = code;
  entry.message = std::move(message);
  // What it had added is cut off again, and what it had rewound is back.
  entry.session_tokens = job.prompt_tokens < 0 ? job.session->tokens : job.session_tokens;
  end_job(t, job, std::move(entry));
}

void Core::State::stop(Turn& t, Job& job, JobState state) {
  if (job.in_flight()) detach_attempt(t, job, true);
  JobEndedEntry entry;
  entry.state = state;
  entry.reason = state == JobState::expired ? FinishReason::expired : FinishReason::cancelled;
  entry.session_tokens = job.session->tokens;
  end_job(t, job, std::move(entry));
}

}  // namespace limpet::broker
