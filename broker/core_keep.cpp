// How long a session's KV is kept while it has no jobs, and how long the session itself is.
#include <algorithm>
#include <utility>

#include "broker/core_state.h"

namespace limpet::broker {
namespace {

using std::chrono_literals::operator""ms;

constexpr std::chrono::milliseconds kLookAgain = std::chrono::hours(24);
constexpr int64_t kRetiredAtOnce = 64;  // sessions that end for their age, in one turn

}  // namespace

void Core::State::set_terms(Turn& t, Session& session, const JobSpec& spec) {
  SessionTerms terms{session.number, session.keep_alive_ms, session.max_tokens};
  if (spec.keep_alive_ms >= 0) terms.keep_alive_ms = spec.keep_alive_ms;
  if (spec.session_max_tokens > 0) terms.max_tokens = spec.session_max_tokens;
  if (terms.keep_alive_ms == session.keep_alive_ms && terms.max_tokens == session.max_tokens) {
    return;
  }
  commit(t, terms);
}

// It has no jobs (any more). The time that its KV is kept for begins.
void Core::State::keep(Turn& t, Session& session) {
  const bool release = std::exchange(session.release, false);
  if (session.first || session.home == kNoWorker) return;
  if (release) return leave_home(t, session, Reason::evicted, "released");
  if (keep_alive_of(session) == 0) return leave_home(t, session, Reason::evicted, "keep_alive");
  keep_until(t, session);
}

void Core::State::keep_until(Turn& t, Session& session) {
  const int64_t most = keep_alive_of(session);
  session.kept_until = most < 0 ? Time::max() : t.now.mono + std::chrono::milliseconds(most);
  if (session.kept_until < session.timer_at) look_at(session, session.kept_until);
}

int64_t Core::State::keep_alive_of(const Session& session) const {
  return session.keep_alive_ms >= 0 ? session.keep_alive_ms : options.keep_alive.count();
}

void Core::State::look_at(Session& session, Time at) {
  session.timer_at = at;
  ++session_timers;
  timers.add(at, Timers::Kind::session, raw(session.number));
}

void Core::State::session_due(Turn& t, Session& session) {
  session.timer_at = Time::max();
  if (session.first || session.home == kNoWorker || session.kept_until == Time::max()) return;
  if (t.now.mono < session.kept_until) return look_at(session, session.kept_until);
  leave_home(t, session, Reason::evicted, "keep_alive");
}

// When the session that has not been used for longest has not been for long enough.
Time Core::State::next_retired() const {
  const Session* s = sessions.longest_unused();
  if (!s || options.retain_sessions.count() <= 0) return Time::max();
  const int64_t left = s->used_at + options.retain_sessions.count() - last_wall;
  // However far that is, it is looked at again: what a file may say need not fit a Time.
  return last_now + std::clamp(std::chrono::milliseconds(left), 0ms, kLookAgain);
}

// The named sessions without jobs that have not been used for longest end: their transcripts are
// nobody's any more. For their age, only those that are old enough.
void Core::State::retire(Turn& t, int64_t most, std::string_view why) {
  const bool by_age = why == "age";
  for (most = by_age ? kRetiredAtOnce : most; most > 0; --most) {
    Session* s = sessions.longest_unused();
    if (!s || (by_age && s->used_at + options.retain_sessions.count() > t.now.wall)) return;
    if (s->home != kNoWorker) release_home(t, *s);
    fact(t, Fact::Kind::session_retired, *s, why);
    commit(t, SessionClosed{s->number});
  }
}

}  // namespace limpet::broker
