// A job from its dispatch to its end.
#include <algorithm>
#include <utility>

#include "worker/core_state.h"

namespace limpet::worker {
namespace {

// Tokens before the prompt that tokenizing may look at: where the last turn's end token stands.
constexpr int64_t kTail = 8;

int64_t transcript_tokens(const Dispatch& m) {
  return m.base_tokens + (m.prompt_tokens < 0 ? 0 : m.prompt_tokens + m.output_tokens);
}

}  // namespace

Job* Core::State::find(JobNumber number, Attempt attempt) {
  const auto it = jobs.find(number);
  return it != jobs.end() && it->second.attempt() == attempt ? &it->second : nullptr;
}

int64_t Core::State::limit() const {
  return std::min(options.max_context, kv.total_pages() * kv.page_tokens());
}

int64_t Core::State::active_jobs() const {
  return std::ranges::count_if(jobs, [](const auto& entry) { return entry.second.active(); });
}

std::vector<Job*> Core::State::by_age() {
  std::vector<Job*> active;
  for (auto& [number, job] : jobs) {
    if (job.active()) active.push_back(&job);
  }
  std::ranges::sort(active, {}, &Job::arrival);
  return active;
}

// ---- Dispatch ---------------------------------------------------------------------------------

bool Core::State::stale(const Dispatch& m) const {
  if (over.covers(m.job, m.attempt) || released.covers(m.session, m.epoch)) return true;
  // Numbers grow along a session's lane: an older job that comes after a newer one came late, and
  // its transcript is of the past.
  if (newest.past(m.session, m.job)) return true;
  const auto known = jobs.find(m.job);
  if (known != jobs.end() && known->second.attempt() >= m.attempt) return true;
  const Session* session = sessions.find(m.session);
  return session != nullptr && m.epoch < session->epoch;
}

void Core::State::from(const Turn& turn, const Dispatch& m) {
  if (stale(m)) return;
  if (jobs.contains(m.job)) forget(turn, m.job);
  if (const Session* session = sessions.find(m.session); session != nullptr && session->job) {
    forget(turn, *session->job);  // its end must have been told in a message that is not here yet
  }
  if (slots() == 0) {
    say(turn,
        JobEnded{.job = m.job,
                 .attempt = m.attempt,
                 .ok = false,
                 .reason = {},
                 .output_tokens = 0,
                 .tail_text = {},
                 .code = ErrorCode::busy,
                 .message = stopping ? "the worker is leaving" : "the worker has no free slot",
                 .retryable = true});
    return;
  }
  Job& job = take(m);
  const Session& session = sessions.of(job);
  if (m.has_transcript) {
    merge(turn, job, m.transcript);
  } else if (session.trusted && std::ssize(session.tokens) >= transcript_tokens(m)) {
    transcript_known(turn, job);
  } else if (m.spec->require_resident && m.base_tokens > 0 && sessions.kv_tokens(session) == 0) {
    fail(turn, job, ErrorCode::not_resident, "the session's KV is not on its worker", false);
  } else {
    job.stage = Stage::needs_transcript;
    job.said_at = turn.now;
    say(turn, NeedTranscript{m.job, m.attempt});
  }
}

Job& Core::State::take(const Dispatch& m) {
  newest.raise(m.session, m.job);
  Job& job = jobs[m.job];
  job.arrival = next_arrival++;
  job.dispatch = m;
  job.dispatch.transcript.clear();
  Session* session = sessions.find(m.session);
  if (session == nullptr) {
    session = &sessions.open(m);
  } else if (m.epoch > session->epoch) {
    session->epoch = m.epoch;
    session->trusted = false;
    session->ephemeral = m.ephemeral;
    if (session->incoming) {  // what has come of it so far is of use
      session->incoming = false;
      session->migrated = true;
      incoming.erase(m.session);
    }
  }
  sessions.set_busy(*session, m.job);
  session->kept = m.keep_alive_ms > 0;
  return job;
}

void Core::State::from(const Turn& turn, const TranscriptReply& m) {
  Job* job = find(m.job, m.attempt);
  if (job != nullptr && job->stage == Stage::needs_transcript) merge(turn, *job, m.transcript);
}

// The copy here gives way to the broker's; the KV of what they share stays.
void Core::State::merge(const Turn& turn, Job& job, const std::vector<Token>& transcript) {
  if (std::ssize(transcript) != transcript_tokens(job.dispatch)) {
    return fail(turn, job, ErrorCode::worker_error,
                "the transcript has " + std::to_string(transcript.size()) + " tokens instead of " +
                    std::to_string(transcript_tokens(job.dispatch)),
                true);
  }
  Session& session = sessions.of(job);
  const auto [mine, theirs] = std::ranges::mismatch(session.tokens, transcript);
  const int64_t common = theirs - transcript.begin();
  job.diverged = mine != session.tokens.end() && theirs != transcript.end();
  if (session.sequence && kv.length(*session.sequence) > common) {
    kv.truncate(*session.sequence, common);
  }
  session.tokens = transcript;
  session.trusted = true;
  transcript_known(turn, job);
}

void Core::State::transcript_known(const Turn& turn, Job& job) {
  const Dispatch& m = job.dispatch;
  Session& session = sessions.of(job);
  job.shortened = std::ssize(session.tokens) > transcript_tokens(m);
  session.tokens.resize(static_cast<size_t>(transcript_tokens(m)));
  const int64_t have = session.sequence ? kv.length(*session.sequence) : 0;
  if (have > std::ssize(session.tokens)) kv.truncate(*session.sequence, std::ssize(session.tokens));
  job.known_tokens = m.output_tokens > 0 ? transcript_tokens(m) : m.base_tokens;
  const bool out_of_range = std::ranges::any_of(
      session.tokens, [&](Token t) { return t < 0 || (options.vocab > 0 && t >= options.vocab); });
  if (out_of_range || (m.prompt_tokens < 0 && m.output_tokens > 0)) {
    sessions.drop_all_kv(session);
    session.tokens.clear();
    return fail(turn, job, ErrorCode::worker_error, "the transcript is not one of this model",
                false);
  }
  const int64_t below = sessions.tiers().covered(session.number, session.tokens);
  if (m.spec->require_resident && m.base_tokens > 0 &&
      std::max(have, below) < job.known_tokens - 1) {
    return fail(turn, job, ErrorCode::not_resident, "the session's KV is not on its worker", false);
  }
  if (m.prompt_tokens < 0) {
    job.stage = Stage::needs_prompt;
    const int64_t tail = std::min(kTail, std::ssize(session.tokens));
    turn.out.commands.push_back(
        Tokenize{m.job, m.attempt, m.spec, {session.tokens.end() - tail, session.tokens.end()}});
    return;
  }
  const auto prompt = session.tokens.begin() + m.base_tokens;
  const auto output = prompt + m.prompt_tokens;
  job.prompt.assign(prompt, output);
  job.output.assign(output, session.tokens.end());
  job.text.resize(job.output.size());
  job.logprobs.resize(job.output.size());
  prompt_known(turn, job);
}

void Core::State::on(const Turn& turn, const Tokenized& event) {
  Job* job = find(event.job, event.attempt);
  if (job == nullptr || job->stage != Stage::needs_prompt) return;
  if (!event.error.empty()) return fail(turn, *job, ErrorCode::invalid, event.error, false);
  const bool out_of_range = std::ranges::any_of(
      event.prompt, [&](Token t) { return t < 0 || (options.vocab > 0 && t >= options.vocab); });
  if (out_of_range) {
    return fail(turn, *job, ErrorCode::invalid,
                "a token id is outside the model's vocabulary of " + std::to_string(options.vocab),
                false);
  }
  job->prompt = event.prompt;
  prompt_known(turn, *job);
}

// The session holds the transcript without a prompt that was tokenized just now.
void Core::State::prompt_known(const Turn& turn, Job& job) {
  Session& session = sessions.of(job);
  const int64_t before = job.dispatch.base_tokens + job.prompt_tokens();
  if (before == 0) {
    return fail(turn, job, ErrorCode::invalid, "the input is empty and so is the session", false);
  }
  const int64_t cap = job.dispatch.session_max_tokens;
  if (cap > 0 && before >= cap) {
    return fail(turn, job, ErrorCode::too_long,
                "the session may hold at most " + std::to_string(cap) +
                    " tokens (session_max_tokens): it has " +
                    std::to_string(job.dispatch.base_tokens) + ", and a prompt of " +
                    std::to_string(job.prompt_tokens()) + " leaves no room for output",
                false);
  }
  const int64_t left = (cap > 0 ? std::min(cap, limit()) : limit()) - before;
  if (left < 1) {
    return fail(turn, job, ErrorCode::too_long,
                "a session of " + std::to_string(job.dispatch.base_tokens) +
                    " tokens and a prompt of " + std::to_string(job.prompt_tokens()) +
                    " leave no room for output in " + std::to_string(limit()) + " tokens",
                false);
  }
  if (job.dispatch.prompt_tokens < 0) {
    session.tokens.insert(session.tokens.end(), job.prompt.begin(), job.prompt.end());
  }
  job.max_tokens = std::min<int64_t>(job.dispatch.spec->max_tokens, left);
  // The last token is computed in any case: its row gives the logits.
  const int64_t most = std::ssize(session.tokens) - 1;
  if (session.sequence && kv.length(*session.sequence) > most) kv.truncate(*session.sequence, most);
  job.stage = Stage::waiting;
  job.text_open = true;
  turn.out.commands.push_back(OpenText{job.number(), job.attempt(), job.dispatch.spec,
                                       job.dispatch.seed, job.output,
                                       job.output_tokens() >= job.max_tokens});
}

void Core::State::on(const Turn& turn, const AlreadyEnded& event) {
  Job* job = find(event.job, event.attempt);
  if (job == nullptr || job->stage != Stage::waiting || job->started) return;
  finish(turn, *job, event.reason, event.tail_text);
}

// It has its pages: for the first time, or again.
void Core::State::start(const Turn& turn, Job& job) {
  Session& session = sessions.of(job);
  const int64_t cached = kv.length(*session.sequence);
  const bool migrated = std::exchange(session.migrated, false);
  const bool restored = std::exchange(session.restored, false);
  if (job.started) {
    if (job.preempted) {
      reprefilled_tokens[Reason::evicted] += std::ssize(session.tokens) - 1 - cached;
    }
    job.preempted = false;
    return;
  }
  JobStarted m{job.number(),
               job.attempt(),
               Residency::resident,
               Reason::none,
               cached,
               std::ssize(session.tokens) - cached,
               {}};
  if (job.known_tokens == 0 || cached < job.known_tokens - 1) {
    m.residency = Residency::reprefilled;
    m.reason = job.dispatch.home_reason;
    if (m.reason == Reason::none) {
      m.reason = job.diverged || (job.shortened && job.known_tokens == 0) ? Reason::rewound
                 : job.known_tokens == 0                                  ? Reason::new_session
                                                                          : Reason::evicted;
    }
    reprefilled_tokens[m.reason] += std::max<int64_t>(job.known_tokens - cached, 0);
  } else if (restored) {
    m.residency = Residency::restored;
  } else if (migrated) {
    m.residency = Residency::migrated;
  }
  if (job.dispatch.prompt_tokens < 0) m.prompt = job.prompt;
  job.started = m;
  say(turn, std::move(m));
}

// ---- What the broker asks for again, and the end
// -------------------------------------------------

void Core::State::from(const Turn& turn, const ResumeJob& m) {
  Job* job = find(m.job, m.attempt);
  if (job != nullptr) say_again(turn, *job, m.from_index);
}

void Core::State::say_again(const Turn& turn, Job& job, int64_t from_index) {
  if (job.started) say(turn, *job.started);
  const int64_t from = std::max(from_index, job.dispatch.output_tokens);
  if (from < job.output_tokens()) {
    limpet::StepRow row{job.number(), job.attempt(), from, {}, {}, {}};
    for (auto i = static_cast<size_t>(from); i < job.output.size(); ++i) {
      row.ids.push_back(job.output[i]);
      row.text += job.text[i];
      if (!job.logprobs[i].empty()) row.logprobs.push_back(job.logprobs[i]);
    }
    say(turn, StepTokens{{std::move(row)}});
  }
  if (!job.end) return;
  job.said_at = turn.now;
  say(turn, *job.end);
}

void Core::State::fail(const Turn& turn, Job& job, ErrorCode code, std::string message,
                       bool retryable) {
  end(turn, job,
      {.job = job.number(),
       .attempt = job.attempt(),
       .ok = false,
       .reason = {},
       .output_tokens = job.output_tokens(),
       .tail_text = {},
       .code = code,
       .message = std::move(message),
       .retryable = retryable});
}

void Core::State::finish(const Turn& turn, Job& job, FinishReason reason, std::string tail_text) {
  end(turn, job,
      {.job = job.number(),
       .attempt = job.attempt(),
       .ok = true,
       .reason = reason,
       .output_tokens = job.output_tokens(),
       .tail_text = std::move(tail_text),
       .code = {},
       .message = {},
       .retryable = false});
}

void Core::State::end(const Turn& turn, Job& job, JobEnded end) {
  if (!end.ok && job.shortened && !job.started) cut_copy(job);
  leave_session(turn, job);
  job.stage = Stage::ended;
  job.said_at = turn.now;
  say(turn, end);
  job.end = std::move(end);
}

// The job has cut a longer copy of the transcript and put its own tokens there, of which nobody has
// heard. The session goes on from where it was: the broker is asked for that then.
void Core::State::cut_copy(const Job& job) {
  Session& session = sessions.of(job);
  const auto keep = static_cast<size_t>(job.dispatch.base_tokens);
  if (session.tokens.size() <= keep) return;
  session.tokens.resize(keep);
  const int64_t kept = std::ssize(session.tokens);
  if (session.sequence && kv.length(*session.sequence) > kept) kv.truncate(*session.sequence, kept);
}

void Core::State::leave_session(const Turn& turn, Job& job) {
  if (!job.active()) return;
  if (std::exchange(job.text_open, false)) {
    turn.out.commands.push_back(CloseText{job.number(), job.attempt()});
  }
  sessions.set_idle(sessions.of(job));
}

void Core::State::forget(const Turn& turn, JobNumber number) {
  const auto it = jobs.find(number);
  Job& job = it->second;
  over.raise(number, job.attempt());
  if (job.active() && job.shortened && !job.started) cut_copy(job);
  leave_session(turn, job);
  jobs.erase(it);
}

void Core::State::from(const Turn& turn, const CancelJob& m) {
  from(turn, EndAck{m.job, m.attempt});  // the broker has ended it already
}

void Core::State::from(const Turn& turn, const EndAck& m) {
  over.raise(m.job, m.attempt);
  const auto it = jobs.find(m.job);
  if (it != jobs.end() && it->second.attempt() <= m.attempt) forget(turn, m.job);
}

void Core::State::from(const Turn& turn, const ReleaseSession& m) {
  release(turn, m.session, m.epoch);
}

void Core::State::release(const Turn& turn, SessionNumber number, Epoch epoch) {
  released.raise(number, epoch);
  if (const auto o = outgoing.find(number); o != outgoing.end() && o->second.epoch <= epoch) {
    stop_giving(turn, number);
  }
  if (const auto in = incoming.find(number); in != incoming.end() && in->second.epoch <= epoch) {
    return drop_incoming(number);
  }
  Session* session = sessions.find(number);
  if (session == nullptr || session->epoch > epoch) return;
  if (session->job) {
    session->ephemeral = true;  // so that it ends with its job
    forget(turn, *session->job);
  } else {
    sessions.close(number);
  }
}

}  // namespace limpet::worker
