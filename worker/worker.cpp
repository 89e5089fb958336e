#include "worker/worker.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "probes/log_value.h"

namespace limpet::worker {
namespace {

using std::chrono::milliseconds;
using Seconds = std::chrono::duration<double>;
using probes::log_value;

constexpr milliseconds kLongestWait{200};
constexpr milliseconds kGaugesEvery{250};
constexpr milliseconds kDiskLook{1};  // while the disk reads or writes KV
constexpr milliseconds kTellUnlinked{2000};  // without a broker, before it is worth a line
constexpr milliseconds kTellWarming{500};  // between two lines of a long warm-up
constexpr int64_t kAliveMs = 10000;
constexpr int64_t kTransferWindow = 64 << 20;  // bytes on their way to it, of one session
constexpr int64_t kMostTransferPages = 256;
constexpr milliseconds kBrokerRestart{2000};

Time mono() { return std::chrono::steady_clock::now(); }

int64_t mono_ms() {
  return std::chrono::duration_cast<milliseconds>(mono().time_since_epoch()).count();
}

int64_t wall_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

engine::EngineOptions engine_options(const WorkerOptions& o) {
  engine::EngineOptions e = o.engine;
  e.max_rows = o.token_budget;
  e.max_sequences = std::min(o.max_jobs, o.token_budget);
  return e;
}

TextModel text_model(const WorkerOptions& o, const engine::EngineInfo& info) {
  return {engine::Tokenizer::load(o.engine.model_dir),
          engine::ChatTemplate::load(o.engine.model_dir), info.eos};
}

CoreOptions core_options(const WorkerOptions& o, const engine::EngineInfo& info,
                         const TransferLink& transfer, const TierMover& mover) {
  CoreOptions c;
  c.name = o.name;
  c.incarnation = o.incarnation;
  c.device = info.device;
  const auto folder = std::filesystem::path(o.engine.model_dir).lexically_normal();
  c.model = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  c.model_fingerprint = info.fingerprint;
  c.max_context = info.max_context;
  c.vocab = static_cast<Token>(info.vocab);
  c.max_jobs = o.max_jobs;
  c.token_budget = o.token_budget;
  c.prefill_chunk = o.prefill_chunk;
  c.tiers = mover.options();
  c.transfer = transfer.endpoint();
  c.kv_layout = info.kv_layout;
  c.page_bytes = info.page_bytes;
  c.transfer_window = static_cast<int32_t>(
      std::clamp<int64_t>(kTransferWindow / info.page_bytes, 2, kMostTransferPages));
  return c;
}

}  // namespace

Worker::Worker(const WorkerOptions& options)
    : options_(options),
      engine_(engine::Engine::open(engine_options(options))),
      lookahead_(*engine_, engine_->info().runs_ahead),
      text_(text_model(options, engine_->info())),
      states_(text_),
      transfer_(options.transfer, options.identity),
      mover_(*engine_, options.tiers),
      core_(std::make_unique<Core>(core_options(options, engine_->info(), transfer_, mover_),
                                   engine_->kv())),
      transport_(options.broker, options.identity) {
  const engine::EngineInfo& info = engine_->info();
  warm();
  now_ = unlinked_since_ = mono();
  last_turn_ms_ = mono_ms();
  set_metrics(core_->gauges());
  const engine::EngineCounters warmed = engine_->counters();
  spdlog::info(
      "event=started name={} broker={} model={} architecture={} device={} about={} programs={}"
      " fused_programs={} dtype={} weight_bytes={} kv_tokens={} kv_host_tokens={}"
      " kv_disk_tokens={} max_context={}",
      options.name, options.broker, options.engine.model_dir, info.architecture, info.device,
      log_value(info.about), warmed.compiles, warmed.fused_programs,
      info.precision == engine::Precision::f32 ? "f32" : "bf16", info.weight_bytes,
      engine_->kv().total_pages() * engine_->kv().page_tokens(),
      mover_.options().host_pages * engine_->kv().page_tokens(),
      mover_.options().disk_pages * engine_->kv().page_tokens(), info.max_context);
  if (!info.lacks.empty()) {
    spdlog::warn("event=slow_device why={}", log_value(info.lacks));
  }
  tell_short_tier();
}

// The way to disk leads through the host's memory, a session at a time.
void Worker::tell_short_tier() const {
  const int64_t page = engine_->kv().page_tokens(), host = mover_.options().host_pages * page;
  const int64_t longest =
      std::min<int64_t>(engine_->info().max_context, engine_->kv().total_pages() * page);
  if (host == 0 || host >= longest) return;
  spdlog::warn(
      "event=short_host_tier kv_host_tokens={} longest_session={} why=\"sessions that do not fit in"
      " --kv-host-bytes are not kept below the device, nor on disk\"",
      host, longest);
}

Worker::~Worker() = default;

void Worker::warm() {
  const Time start = mono();
  Time told = start;
  double most = 0;
  const auto tell = [&](const engine::WarmedBucket& b) {
    if (b.done > 1) most = std::max(most, b.seconds);
    for (const std::string& line : b.news) {
      spdlog::info("event=kernel_choice what={}", log_value(line));
    }
    const Time now = mono();
    if (b.done < b.all && now - told < kTellWarming) return;
    told = now;
    spdlog::info("event=warming shapes={}/{} ms={:.1f} most_after_first_ms={:.1f} last=\"{}\"",
                 b.done, b.all, Seconds(now - start).count() * 1e3, most * 1e3, to_string(b.key));
  };
  engine_->warm(options_.token_budget, engine_->info().max_context, tell);
  if (const auto c = engine_->counters(); c.choice_seconds > 0) {
    spdlog::info("event=kernels_chosen timed={} ms={:.1f} file=\"{}\"", c.choices_timed,
                 c.choice_seconds * 1e3, options_.engine.choices_file);
  }
  metrics_.compiled(Seconds(mono() - start).count());
}

bool Worker::alive() const { return mono_ms() - last_turn_ms_ < kAliveMs; }

void Worker::run(const std::atomic<int>& stop) {
  while (stop == 0 && !core_->asked_to_leave()) turn();
  leave(stop);
}

// What ends it is the broker's word that nothing is left to be handed over, or the grace. While
// there is no broker nothing can be handed over and nobody hears of what is finished: it is waited
// for only as long as a restart of it takes.
void Worker::leave(const std::atomic<int>& stop) {
  stopping_ = true;
  ready_ = false;
  const Time end = mono() + options_.grace;
  give(Stop{});
  carry_out();
  flush();
  spdlog::info("event=leaving jobs={}", core_->gauges().jobs);
  for (Time heard = mono(); stop < 2 && mono() < end && !core_->may_leave();) {
    turn();
    if (transport_.linked()) heard = mono();
    if (mono() - heard > kBrokerRestart) {
      spdlog::warn("event=left_alone why={}",
                   log_value("no broker answers at " + options_.broker));
      break;
    }
  }
  const Core::Gauges left = core_->gauges();
  give(GoNow{});
  carry_out();
  flush();
  spdlog::info("event=stopped unfinished_jobs={} resident_sessions={}", left.jobs, left.sessions);
}

milliseconds Worker::wait() {
  if (busy_ || mover_.copying()) return milliseconds(0);
  if (!mover_.idle()) return kDiskLook;
  const Time now = mono(), deadline = core_->next_deadline();
  if (deadline <= now) return milliseconds(0);
  if (deadline - now > kLongestWait) return kLongestWait;
  return std::chrono::ceil<milliseconds>(deadline - now);
}

void Worker::turn() {
  const Time before = mono();
  const bool was_busy = busy_;
  const ZmqTransport::Polled polled = transport_.poll(wait(), transfer_.sockets());
  now_ = mono();
  last_turn_ms_ = mono_ms();
  if (!was_busy) metrics_.idled(Seconds(now_ - before).count());
  if (polled.new_link) give(Connected{});
  for (const BrokerToWorker& message : polled.messages) give(FromBroker{message});
  transfer_.let_in(core_->expected_givers());
  transfer_.take(arrived_);
  for (const Event& event : std::exchange(arrived_, {})) give(event);
  for (const PagesMoved& moved : mover_.poll()) {
    if (!moved.error.empty()) spdlog::warn("event=kv_move_failed why={}", log_value(moved.error));
    give(moved);
  }
  if (core_->next_deadline() <= now_) give(Tick{});
  carry_out();
  run_step();
  flush();
  note();
}

void Worker::give(const Event& event) { core_->step(now_, event, out_); }

// The answers of some commands give new ones; all are done before the next step is planned.
void Worker::carry_out() {
  while (!out_.commands.empty()) {
    for (const Command& command : std::exchange(out_.commands, {})) carry_out(command);
  }
}

void Worker::carry_out(const Command& command) {
  if (const auto* t = std::get_if<Tokenize>(&command)) {
    give(tokenize(text_, *t, wall_seconds()));
  } else if (const auto* o = std::get_if<OpenText>(&command)) {
    if (const auto ended = states_.open(*o)) give(*ended);
  } else if (const auto* c = std::get_if<CloseText>(&command)) {
    states_.close(*c);
  } else if (const auto* c = std::get_if<CallReceiver>(&command)) {
    transfer_.call(*c);
  } else if (const auto* r = std::get_if<ToReceiver>(&command)) {
    transfer_.send(*r);
  } else if (const auto* s = std::get_if<SendPage>(&command)) {
    SendPage page = *s;
    auto bytes =
        std::make_shared<std::vector<std::byte>>(static_cast<size_t>(engine_->info().page_bytes));
    engine_->read_page(s->pool_page, *bytes);
    page.page.bytes = std::move(bytes);
    transfer_.send(page);
  } else if (const auto* g = std::get_if<ToGiver>(&command)) {
    transfer_.send(*g);
  } else if (const auto* p = std::get_if<StorePage>(&command)) {
    engine_->write_page(p->pool_page, *p->bytes);
  } else if (const auto* m = std::get_if<MovePages>(&command)) {
    mover_.begin(*m);
  } else {
    transfer_.hang_up(std::get<HangUp>(command).endpoint);
  }
}

void Worker::run_step() {
  const Step step = core_->plan(now_, out_);
  carry_out();
  busy_ = !step.empty();
  if (!busy_) {
    lookahead_.settle();
    return;
  }
  flush();  // who has started need not wait for the step
  const engine::EngineCounters counters = engine_->counters();
  const Time start = mono();
  const StepDone done = compute(step);
  now_ = mono();
  const double seconds = Seconds(now_ - start).count();
  int64_t rows = 0;
  bool decode_only = true;
  for (const StepRow& row : step.rows) {
    rows += std::ssize(row.tokens);
    decode_only = decode_only && row.tokens.size() == 1;
  }
  metrics_.stepped(decode_only, rows, seconds);
  if (engine_->counters().compiles > counters.compiles) metrics_.compiled(seconds);
  give(done);
  flush();  // its tokens need not wait for pages that leave now
  carry_out();
}

StepDone Worker::compute(const Step& step) {
  if (engine_->info().runs_ahead) {
    const Lookahead::Outcome outcome =
        lookahead_.run(step, [&](const StepRow& row) { return states_.sampling(row); });
    if (outcome.error.empty()) {
      StepDone done;
      for (size_t i = 0; i < step.rows.size(); ++i) {
        add_row(step.rows[i], [&] { return states_.accept(step.rows[i], outcome.rows[i]); }, done);
      }
      return done;
    }
    spdlog::warn("event=ahead_failed rows={} why={}", step.rows.size(), log_value(outcome.error));
  }
  std::vector<engine::StepRow> rows;
  for (const StepRow& row : step.rows) {
    rows.push_back(
        {row.sequence, row.tokens, row.sample ? engine::Want::last : engine::Want::nothing});
  }
  StepDone done;
  done.rows.reserve(step.rows.size());
  const engine::StepResult together = engine_->step(rows);
  if (together.ok()) {
    sample(step, together, done);
    return done;
  }
  // Nothing has advanced. One by one, so that what is wrong with one sequence stays its own.
  spdlog::warn("event=step_failed rows={} why={}", rows.size(), log_value(together.error));
  for (size_t i = 0; i < rows.size(); ++i) {
    const engine::StepResult alone = engine_->step(std::span(&rows[i], 1));
    if (alone.ok()) {
      sample({{step.rows[i]}}, alone, done);
    } else {
      done.rows.push_back({.job = step.rows[i].job,
                           .attempt = step.rows[i].attempt,
                           .sampled = false,
                           .token = 0,
                           .text = {},
                           .logprobs = {},
                           .tail_text = {},
                           .error = alone.error});
    }
  }
  return done;
}

void Worker::sample(const Step& step, const engine::StepResult& result, StepDone& done) {
  for (size_t i = 0; i < step.rows.size(); ++i) {
    const StepRow& row = step.rows[i];
    const auto draw = [&] {
      return states_.sample(row, result.row(result.first[i]), engine_->kv().tokens(row.sequence));
    };
    add_row(row, draw, done);
  }
}

void Worker::add_row(const StepRow& row, const std::function<RowResult()>& sampled,
                     StepDone& done) {
  if (!row.sample) {
    done.rows.push_back({.job = row.job,
                         .attempt = row.attempt,
                         .sampled = false,
                         .token = 0,
                         .text = {},
                         .logprobs = {},
                         .tail_text = {},
                         .error = {}});
    return;
  }
  done.rows.push_back(sampled());
  if (const std::string& why = done.rows.back().error; !why.empty()) {
    spdlog::warn("event=row_failed job={} attempt={} why={}", raw(row.job), raw(row.attempt),
                 log_value(why));
  }
}

// What cannot leave now is said anew after the next registration.
void Worker::flush() {
  for (const WorkerMessage& m : out_.send) {
    const auto* end = std::get_if<JobEnded>(&m);
    if (end != nullptr && !end->ok) {
      spdlog::debug("event=job_failed job={} attempt={} code={}", raw(end->job), raw(end->attempt),
                    name(end->code));
    }
  }
  transport_.send(out_.send);
  out_.send.clear();
}

void Worker::set_metrics(const Core::Gauges& gauges) {
  metrics_.set(gauges, engine_->kv(), engine_->counters(), transfer_.counters());
  metrics_.set_tiers(gauges, mover_.options(), mover_.counters());
}

// Figures and the lines worth an operator's time.
void Worker::note() {
  ready_ = !stopping_ && core_->registered() && transport_.linked();
  const bool rests = std::exchange(was_busy_, busy_) && !busy_;
  if (!rests && now_ - gauges_at_ < kGaugesEvery) return;
  gauges_at_ = now_;
  const Core::Gauges gauges = core_->gauges();
  set_metrics(gauges);
  if (core_->registered() != was_registered_) {
    was_registered_ = core_->registered();
    spdlog::info("event={}", was_registered_ ? "registered" : "registering");
  }
  if (gauges.refused != told_refused_) {
    told_refused_ = gauges.refused;
    if (!told_refused_.empty()) spdlog::error("event=refused why={}", log_value(told_refused_));
  }
  if (transport_.linked()) {
    unlinked_since_ = now_;
    told_unlinked_ = false;
  } else if (!told_unlinked_ && now_ - unlinked_since_ > kTellUnlinked) {
    told_unlinked_ = true;
    spdlog::warn("event=no_broker endpoint={} why=\"nobody answers there; trying on\"",
                 options_.broker);
  }
}

}  // namespace limpet::worker
