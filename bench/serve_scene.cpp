#include "bench/serve_scene.h"

#include <stdexcept>
#include <utility>

namespace limpet::bench {
namespace {

worker::CoreOptions core_options(const engine::Engine& e, const Server::Limits& limits,
                                 const worker::TierMover& mover) {
  worker::CoreOptions o;
  o.name = "bench";
  o.incarnation = 1;
  o.device = e.info().device;
  o.max_context = e.info().max_context;
  o.vocab = static_cast<Token>(e.info().vocab);
  o.max_jobs = limits.jobs;
  o.token_budget = limits.token_budget;
  o.prefill_chunk = limits.prefill_chunk;
  o.tiers = mover.options();
  return o;
}

}  // namespace

Server::Server(engine::Engine& engine, const Limits& limits)
    : engine_(engine),
      mover_(engine, limits.tiers),
      core_(core_options(engine, limits, mover_), engine.kv()),
      lookahead_(engine, limits.split) {
  give(worker::Connected{});
  give(worker::FromBroker{Registered{.incarnation = 1,
                                     .heartbeat_ms = 60000,
                                     .lease_ms = 60000,
                                     .release = {},
                                     .resume = {},
                                     .drop = {}}});
}

uint64_t Server::submit(uint64_t session, int64_t new_tokens, int32_t max_tokens) {
  auto spec = std::make_shared<JobSpec>();
  spec->kind = InputKind::tokens;
  spec->tokens = random_tokens(new_tokens, engine_.info().vocab, 100 + last_job_);
  spec->max_tokens = max_tokens;
  auto& transcript = transcripts_[session];
  Dispatch d;
  d.job = JobNumber{++last_job_};
  d.attempt = Attempt{1};
  d.session = SessionNumber{session};
  d.epoch = Epoch{1};
  d.base_tokens = std::ssize(transcript);
  d.spec = spec;
  transcript.insert(transcript.end(), spec->tokens.begin(), spec->tokens.end());
  jobs_[last_job_] = {session, {}};
  give(worker::FromBroker{std::move(d)});
  return last_job_;
}

void Server::give(const worker::Event& event) {
  core_.step(Clock::now(), event, out_);
  hear();
}

// What the core says and asks for; its answers give new words.
void Server::hear() {
  while (!out_.commands.empty() || !out_.send.empty()) {
    worker::Output now = std::exchange(out_, {});
    for (const worker::Command& c : now.commands) {
      if (const auto* t = std::get_if<worker::Tokenize>(&c)) {
        core_.step(Clock::now(), worker::Tokenized{t->job, t->attempt, t->spec->tokens, ""}, out_);
      } else if (const auto* m = std::get_if<worker::MovePages>(&c)) {
        mover_.begin(*m);
      }
    }
    for (const WorkerMessage& m : now.send) heard(m);
  }
}

void Server::heard(const WorkerMessage& message) {
  const auto now = Clock::now();
  if (const auto* started = std::get_if<JobStarted>(&message)) {
    ++starts_[started->residency];
  } else if (const auto* tokens = std::get_if<StepTokens>(&message)) {
    gaps_.clear();
    for (const auto& row : tokens->rows) {
      Job& job = jobs_.at(raw(row.job));
      auto& transcript = transcripts_[job.session];
      transcript.insert(transcript.end(), row.ids.begin(), row.ids.end());
      if (job.last) {
        gaps_[raw(row.job)] = std::chrono::duration<double>(now - *job.last).count();
      }
      job.last = now;
    }
  } else if (const auto* need = std::get_if<NeedTranscript>(&message)) {
    // Its prompt is not part of it yet.
    const auto& all = transcripts_.at(jobs_.at(raw(need->job)).session);
    throw std::runtime_error("a session of " + std::to_string(all.size()) +
                             " tokens has lost its KV: more KV pages, or more host memory");
  } else if (const auto* end = std::get_if<JobEnded>(&message)) {
    if (!end->ok) throw std::runtime_error("a job failed: " + end->message);
    ended_.push_back({raw(end->job), jobs_.at(raw(end->job)).session});
    jobs_.erase(raw(end->job));
    core_.step(now, worker::FromBroker{EndAck{end->job, end->attempt}}, out_);
  }
}

bool Server::started(uint64_t job) const {
  const auto it = jobs_.find(job);
  return it == jobs_.end() || it->second.last.has_value();
}

std::vector<Server::Ended> Server::take_ended() { return std::exchange(ended_, {}); }

std::optional<Server::StepSeen> Server::turn() {
  for (const worker::PagesMoved& moved : mover_.poll()) give(moved);
  const worker::Step step = core_.plan(Clock::now(), out_);
  hear();
  if (step.empty()) {
    lookahead_.settle();
    step_end_.reset();
    return std::nullopt;
  }
  StepSeen seen;
  const auto start = step_end_.value_or(Clock::now());
  const worker::StepDone done = run(step, seen);
  step_end_ = Clock::now();
  seen.seconds = std::chrono::duration<double>(*step_end_ - start).count();
  give(done);
  return seen;
}

worker::StepDone Server::run(const worker::Step& step, StepSeen& seen) {
  for (const worker::StepRow& row : step.rows) {
    ++seen.sequences;
    seen.rows += std::ssize(row.tokens);
    seen.decode_only = seen.decode_only && row.tokens.size() == 1;
    seen.kv_tokens += engine_.kv().length(row.sequence) + std::ssize(row.tokens);
  }
  const auto outcome =
      lookahead_.run(step, [](const worker::StepRow&) { return engine::SamplingOptions{}; });
  if (!outcome.error.empty()) throw std::runtime_error(outcome.error);
  worker::StepDone done;
  for (size_t i = 0; i < step.rows.size(); ++i) {
    const worker::StepRow& row = step.rows[i];
    done.rows.push_back({.job = row.job,
                         .attempt = row.attempt,
                         .sampled = row.sample,
                         .token = row.sample ? outcome.rows[i].token : 0,
                         .text = {},
                         .logprobs = {},
                         .tail_text = {},
                         .error = row.sample ? outcome.rows[i].error : ""});
  }
  return done;
}

}  // namespace limpet::bench
