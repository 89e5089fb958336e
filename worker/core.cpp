#include "worker/core.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "worker/core_state.h"

namespace limpet::worker {
namespace {

void check(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("worker core: ") + what);
}

}  // namespace

Core::Core(const CoreOptions& options, engine::KvCache& kv)
    : state_(std::make_unique<State>(options, kv)) {
  check(options.max_jobs > 0 && options.max_sessions >= 0 && options.max_context > 0,
        "max_jobs and max_context must be positive");
}
Core::~Core() = default;

void Core::step(Time now, const Event& event, Output& out) {
  State& s = *state_;
  const Turn turn{now, out};
  const bool done = std::holds_alternative<StepDone>(event);
  if (s.in_flight && !done) {
    s.put_aside.push_back(event);
    return;
  }
  s.decide(turn, event);
  if (done) {
    s.step_took = std::chrono::duration_cast<std::chrono::microseconds>(now - s.step_began);
    s.pages_allowed = s.pages_before_next_step();
    for (const Event& waiting : std::exchange(s.put_aside, {})) s.decide(turn, waiting);
  }
  if (!s.in_flight) s.tidy_tiers(turn);
  s.say_evicted(turn);
  if (!s.in_flight) s.give_all(turn);
}

Step Core::plan(Time now, Output& out) {
  State& s = *state_;
  const Turn turn{now, out};
  check(!s.in_flight, "plan before StepDone");
  for (Job* job : s.by_age()) {
    // The loop had the chance to answer AlreadyEnded with the text that was held back.
    if (job->stage == Stage::waiting && job->output_tokens() >= job->max_tokens) {
      s.finish(turn, *job, FinishReason::length, "");
    }
  }
  const Plan plan = s.scheduler.plan(s.by_age(), s.sessions);
  s.preemptions += std::ssize(plan.preempted);
  for (Job* job : plan.admitted) s.start(turn, *job);
  Step step;
  for (const ScheduledRow& row : plan.rows) step.rows.push_back(s.step_row(row));
  s.tidy_tiers(turn);
  if (!step.empty()) {
    s.in_flight = step;
    s.step_began = now;
  }
  s.say_evicted(turn);
  s.tell_arrived(turn);
  // Where there is no step, none waits for what is sent.
  s.pages_allowed = step.empty() ? std::numeric_limits<int64_t>::max() : 0;
  if (step.empty()) s.give_all(turn);
  return step;
}

Time Core::next_deadline() const {
  const State& s = *state_;
  Time next = std::min(s.next_register, s.next_heartbeat);
  for (const auto& [number, o] : s.outgoing) next = std::min(next, o.due());
  for (const auto& [number, in] : s.incoming) next = std::min(next, in.due());
  return next;
}

bool Core::registered() const { return state_->link == Link::registered; }
bool Core::asked_to_leave() const { return state_->leave_asked; }

std::vector<std::string> Core::expected_givers() const {
  std::vector<std::string> keys;
  for (const auto& [number, in] : state_->incoming)
    if (!in.giver_key.empty()) keys.push_back(in.giver_key);
  return keys;
}

bool Core::may_leave() const {
  const State& s = *state_;
  return s.stopping && s.jobs.empty() && (s.leave_allowed || !s.ever_registered);
}

Core::Gauges Core::gauges() const {
  const State& s = *state_;
  Gauges g;
  g.jobs = s.active_jobs();
  for (const auto& [number, job] : s.jobs) {
    g.jobs_waiting += job.active() && job.stage != Stage::admitted;
  }
  g.sessions = s.sessions.size();
  g.sessions_idle = s.sessions.idle();
  g.idle_pages = s.sessions.idle_pages();
  g.resident_kv_tokens = s.resident_kv_tokens();
  g.evictions = s.sessions.evictions();
  g.preemptions = s.preemptions;
  g.prefilled_tokens = s.prefilled_tokens;
  g.decoded_tokens = s.decoded_tokens;
  g.reprefilled_tokens.assign(s.reprefilled_tokens.begin(), s.reprefilled_tokens.end());
  g.tiers = s.sessions.tiers().gauges();
  for (const auto& [number, session] : s.sessions.all()) {
    if (!session.sequence) continue;
    ++g.device_sessions;
    g.device_tokens += s.kv.length(*session.sequence);
  }
  g.evicted_sessions = {{Reason::evicted, s.sessions.evictions()}};
  g.refused = s.refused;
  return g;
}

void Core::State::decide(const Turn& turn, const Event& event) {
  std::visit([&](const auto& e) { on(turn, e); }, event);
}

void Core::State::on(const Turn& turn, const FromBroker& event) {
  std::visit([&](const auto& m) { from(turn, m); }, event.message);
}

// ---- The link to the broker -------------------------------------------------------------------

void Core::State::say(const Turn& turn, WorkerMessage message) {
  if (link == Link::registered) turn.out.send.push_back(std::move(message));
}

void Core::State::on(const Turn& turn, const Connected&) { say_hello(turn); }

void Core::State::on(const Turn& turn, const Stop&) {
  if (stopping) return;
  stopping = true;
  if (link != Link::offline) turn.out.send.push_back(Leaving{options.incarnation});
  while (!incoming.empty()) refuse(turn, incoming.begin()->first, "it leaves");
}

void Core::State::on(const Turn& turn, const GoNow&) {
  for (Job* job : by_age()) fail(turn, *job, ErrorCode::busy, "the worker is leaving", true);
  if (link != Link::offline) turn.out.send.push_back(Leaving{options.incarnation, true});
}

void Core::State::from(const Turn&, const Leave& m) {
  leave_asked = leave_asked || m.incarnation == options.incarnation;
}

void Core::State::from(const Turn&, const MayLeave& m) {
  leave_allowed = leave_allowed || (stopping && m.incarnation == options.incarnation);
}

void Core::State::on(const Turn& turn, const Tick&) {
  if (turn.now >= next_register) say_hello(turn);
  if (turn.now >= next_heartbeat) heartbeat(turn);
  giving_due(turn);
  receiving_due(turn);
}

void Core::State::say_hello(const Turn& turn) {
  Register hello{.worker = options.name,
                 .incarnation = options.incarnation,
                 .device = options.device,
                 .model = options.model,
                 .model_fingerprint = options.model_fingerprint,
                 .max_context = limit(),
                 .room = room(),
                 .sessions = {},
                 .jobs = held_jobs(),
                 .kv_page_tokens = kv.page_tokens(),
                 .transfer = options.transfer,
                 .kv_layout = options.kv_layout};
  for (const auto& [number, session] : sessions.all()) {
    if (session.incoming) continue;
    const bool known = session.trusted || session.migrated;
    hello.sessions.push_back({number, session.epoch, known ? std::ssize(session.tokens) : 0});
  }
  turn.out.send.push_back(std::move(hello));
  link = Link::registering;
  next_register = turn.now + options.register_retry;
  next_heartbeat = Time::max();
}

void Core::State::from(const Turn& turn, const WhoAreYou&) {
  if (link == Link::registering && turn.now < next_register) return;  // it has just been told
  say_hello(turn);
}

void Core::State::from(const Turn& turn, const RegisterRefused& m) {
  if (link != Link::registering) return;
  link = Link::refused;
  refused = m.message.empty() ? std::string(name(m.code)) : m.message;
  next_register = turn.now + 10 * options.register_retry;
  next_heartbeat = Time::max();
}

void Core::State::from(const Turn& turn, const Registered& m) {
  if (m.incarnation != options.incarnation) return;  // meant for who had the name before
  link = Link::registered;
  ever_registered = true;
  refused.clear();
  // Another broker process would know of none of them; the same one asks for them again.
  while (!outgoing.empty()) stop_giving(turn, outgoing.begin()->first);
  next_register = Time::max();
  heartbeat_every = std::chrono::milliseconds(std::clamp<int64_t>(m.heartbeat_ms, 1, 60000));
  for (const HeldSession& held : m.release) release(turn, held.session, held.epoch);
  for (const auto& gone : m.drop) from(turn, EndAck{gone.job, gone.attempt});
  for (const auto& kept : m.resume) from(turn, ResumeJob{kept.job, kept.attempt, kept.from_index});
  heartbeat(turn);
  if (stopping) say(turn, Leaving{options.incarnation});
}

int32_t Core::State::slots() const {
  // Ends that wait for their acknowledgement take memory, so they too are bounded.
  const int64_t kept = 4 * int64_t{options.max_jobs} - std::ssize(jobs);
  const int64_t free = std::min(options.max_jobs - active_jobs(), kept);
  return stopping ? 0 : static_cast<int32_t>(std::max<int64_t>(free, 0));
}

Room Core::State::room() const {
  const KvRoom pages = kv_room();
  return {.slots = slots(),
          .free_kv_tokens = pages.free * kv.page_tokens(),
          .total_kv_tokens = kv.total_pages() * kv.page_tokens(),
          .idle_kv_tokens = pages.idle * kv.page_tokens(),
          .spill_kv_tokens = std::min(sessions.spill_pages(), pages.idle) * kv.page_tokens()};
}

// What a started job may come to need is spoken for, so that in the ordinary way none is preempted.
// Of a job that has not started the broker still counts all, so what it holds counts as idle.
Core::State::KvRoom Core::State::kv_room() const {
  const int64_t page = kv.page_tokens();
  int64_t growth = 0, held = 0;
  std::vector<bool> seen(static_cast<size_t>(kv.total_pages()));  // sessions share pages
  for (const auto& [number, job] : jobs) {
    if (!job.active() || !job.started) continue;
    const Session& session = sessions.of(job);
    const int64_t most = std::ssize(session.tokens) + job.max_tokens - job.output_tokens();
    growth += (std::min(most, limit()) + page - 1) / page;
    if (!session.sequence) continue;
    for (const int32_t p : kv.page_table(*session.sequence)) {
      --growth;
      held += !seen[static_cast<size_t>(p)];
      seen[static_cast<size_t>(p)] = true;
    }
  }
  const int64_t free = kv.free_pages() - growth;
  const int64_t idle = kv.total_pages() - kv.free_pages() - held;
  return free < 0 ? KvRoom{0, std::max<int64_t>(idle + free, 0)} : KvRoom{free, idle};
}

std::vector<HeldJob> Core::State::held_jobs() const {
  std::vector<HeldJob> held;
  for (const auto& [number, job] : jobs) {
    held.push_back(
        {number, job.attempt(), job.output_tokens(), job.started.has_value(), !job.active()});
  }
  return held;
}

void Core::State::heartbeat(const Turn& turn) {
  say(turn, Heartbeat{options.incarnation, ++heartbeat_sequence, room(), held_jobs(),
                      resident_kv_tokens()});
  next_heartbeat = turn.now + heartbeat_every;
  for (auto& [number, job] : jobs) {
    const bool waits = job.end || job.stage == Stage::needs_transcript;
    if (!waits || turn.now - job.said_at < heartbeat_every) continue;
    job.said_at = turn.now;
    if (job.end) {
      say(turn, *job.end);
    } else {
      say(turn, NeedTranscript{number, job.attempt()});
    }
  }
  for (const auto& [number, in] : incoming) {
    if (in.complete) say(turn, SessionReceived{number, in.epoch, in.tokens});
  }
}

// What would have to be computed again: a page that several sessions share, once.
int64_t Core::State::resident_kv_tokens() const {
  const int64_t rows = kv.page_tokens();
  std::vector<bool> counted(static_cast<size_t>(kv.total_pages()));
  int64_t sum = 0;
  for (const auto& [number, session] : sessions.all()) {
    if (session.incoming) continue;
    const int64_t device = session.sequence ? kv.length(*session.sequence) : 0;
    sum += sessions.kv_tokens(session) - device;  // what is below only
    if (!session.sequence) continue;
    const auto pages = kv.page_table(*session.sequence);
    for (int64_t from = 0; from < device; from += rows) {
      const auto page = static_cast<size_t>(pages[static_cast<size_t>(from / rows)]);
      if (!counted[page]) sum += std::min(rows, device - from);
      counted[page] = true;
    }
  }
  return sum;
}

void Core::State::say_evicted(const Turn& turn) {
  for (const Sessions::Evicted& gone : sessions.take_evicted()) {
    const auto in = incoming.find(gone.session);
    if (in != incoming.end() && in->second.epoch == gone.epoch) {
      refuse(turn, gone.session, "its room was needed");
      continue;
    }
    say(turn, SessionDropped{gone.session, gone.epoch, Reason::evicted});
  }
}

// ---- Steps ------------------------------------------------------------------------------------

StepRow Core::State::step_row(const ScheduledRow& row) {
  const Job& job = *row.job;
  const Session& session = sessions.of(job);
  const int64_t have = kv.length(*session.sequence);
  const auto first = session.tokens.begin() + have;
  return {.job = job.number(),
          .attempt = job.attempt(),
          .sequence = *session.sequence,
          .tokens = {first, first + row.tokens},
          .sample = have + row.tokens == std::ssize(session.tokens),
          .position = std::ssize(session.tokens),
          .last = job.output_tokens() + 1 >= job.max_tokens};
}

void Core::State::on(const Turn& turn, const StepDone& event) {
  check(in_flight.has_value(), "StepDone without a step");
  const Step step = *std::exchange(in_flight, std::nullopt);
  check(!event.error.empty() || event.rows.size() == step.rows.size(), "rows of another step");
  StepTokens tokens;
  std::vector<Job*> ending;
  for (size_t i = 0; i < step.rows.size(); ++i) {
    if (event.error.empty()) {
      row_done(turn, step.rows[i], event.rows[i], tokens, ending);
      continue;
    }
    Job* job = find(step.rows[i].job, step.rows[i].attempt);
    sessions.drop_kv(sessions.of(*job));
    fail(turn, *job, ErrorCode::worker_error, event.error, true);
  }
  if (!tokens.rows.empty()) say(turn, std::move(tokens));
  for (Job* job : ending) end(turn, *job, *job->end);
  // The room has changed: new sessions are placed by it.
  if (!ending.empty() && link == Link::registered) next_heartbeat = turn.now;
}

void Core::State::row_done(const Turn& turn, const StepRow& row, const RowResult& result,
                           StepTokens& tokens, std::vector<Job*>& ending) {
  Job* job = find(row.job, row.attempt);
  check(job != nullptr && result.job == row.job && result.attempt == row.attempt,
        "a result for another row");
  Session& session = sessions.of(*job);
  if (!result.error.empty()) {
    sessions.drop_all_kv(session);  // what a failed computation left is not built upon
    fail(turn, *job, ErrorCode::worker_error, result.error, true);
    return;
  }
  const int64_t done = std::ssize(session.tokens) - scheduler.missing(session);
  check(row.sample ? done == row.position : done < row.position, "the engine committed other rows");
  const bool decoded = row.tokens.size() == 1 && !job->output.empty();
  (decoded ? decoded_tokens : prefilled_tokens) += std::ssize(row.tokens);
  check(result.sampled == row.sample, "sampled what was not asked for, or not what was");
  if (!row.sample) return;

  limpet::StepRow told{row.job, row.attempt, job->output_tokens(), {result.token}, result.text, {}};
  if (!result.logprobs.empty()) told.logprobs.push_back(result.logprobs);
  tokens.rows.push_back(std::move(told));
  session.tokens.push_back(result.token);
  job->output.push_back(result.token);
  job->text.push_back(result.text);
  job->logprobs.push_back(result.logprobs);
  const bool stop = result.end_token || result.stop_string;
  if (!stop && !row.last) return;
  job->end = JobEnded{.job = row.job,
                      .attempt = row.attempt,
                      .ok = true,
                      .reason = stop ? FinishReason::stop : FinishReason::length,
                      .output_tokens = job->output_tokens(),
                      .tail_text = result.tail_text,
                      .code = {},
                      .message = {},
                      .retryable = false};
  ending.push_back(job);
}

}  // namespace limpet::worker
