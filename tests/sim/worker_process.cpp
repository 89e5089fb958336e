#include "tests/sim/worker_process.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace limpet::sim {
namespace {

constexpr int32_t kPageTokens = 4;
constexpr size_t kPageBytes = kPageTokens * 2 * sizeof(int32_t);

}  // namespace

WorkerProcess::WorkerProcess(World& world, std::string name, Send send)
    : world_(world), name_(std::move(name)), send_(std::move(send)) {}

void WorkerProcess::start() {
  if (up()) return;
  incarnation_ = world_.rng.next() | 1;
  ++connection_;
  kv_ = std::make_unique<engine::KvCache>(engine::KvCache::Options{
      .page_tokens = kPageTokens,
      .pages = static_cast<int32_t>(world_.scene.pages),
      .share_prefixes = world_.scene.share_prefixes});
  worker::CoreOptions o;
  o.name = name_;
  o.incarnation = incarnation_;
  o.device = "fake";
  o.model = "fake";
  o.max_context = world_.scene.max_context;
  o.max_jobs = static_cast<int32_t>(world_.scene.slots);
  o.token_budget = 16;
  o.prefill_chunk = 8;
  o.register_retry = milliseconds(50);
  o.vocab = kVocab;
  o.transfer = name_;
  o.kv_layout = 1;
  o.page_bytes = kPageBytes;
  o.transfer_window = 4;
  o.transfer_step_rate = 0;
  o.transfer_ask_again = milliseconds(30);
  o.transfer_patience = milliseconds(600);
  memory_.assign(static_cast<size_t>(world_.scene.pages * kPageTokens), KvRow{});
  static_assert(kPageBytes == kPageTokens * sizeof(KvRow));
  tiers_ = std::make_unique<TierMemory>(world_, name_, memory_, kPageTokens);
  o.tiers = tiers_->options();
  core_ = std::make_unique<worker::Core>(o, *kv_);
  hung_ = stepping_ = leaving_ = false;
  tick_at_ = broker::Time::max();
  world_.trace(name_, " up");
  tell(worker::Connected{});
}

void WorkerProcess::crash(int64_t down_ms) {
  if (!up()) return;
  world_.trace(name_, " crashes");
  ++world_.verdict.worker_crashes;
  core_.reset();
  kv_.reset();
  seeds_.clear();
  held_.clear();
  world_.in(down_ms, [this] { start(); });
}

void WorkerProcess::hang(int64_t ms) {
  if (!up() || hung_) return;
  world_.trace(name_, " hangs for ", std::to_string(ms));
  hung_ = true;
  world_.in(ms, [this, life = incarnation_] {
    if (life != incarnation_ || !up()) return;
    hung_ = false;
    for (auto& action : std::exchange(held_, {})) {
      if (up() && life == incarnation_) action();
    }
  });
}

void WorkerProcess::leave() {
  if (!up() || leaving_) return;
  world_.trace(name_, " leaves");
  leaving_ = true;
  post([this] { tell(worker::Stop{}); });
  const int64_t grace = world_.scene.calm ? 60'000 : world_.rng.between(50, 1000);
  world_.in(grace, [this, life = incarnation_] {
    if (life != incarnation_ || !up()) return;
    post([this] { tell(worker::GoNow{}); });
    crash(world_.rng.between(100, 1000));
  });
}

void WorkerProcess::leave_or_go() {
  if (core_->asked_to_leave()) leave();
  if (up() && core_->may_leave()) crash(world_.rng.between(100, 1000));
}

void WorkerProcess::reconnect() {
  if (!up()) return;
  ++connection_;
  post([this] { tell(worker::Connected{}); });
}

void WorkerProcess::arrives(BrokerToWorker message) {
  if (!up()) return;
  post([this, m = std::move(message)] { tell(worker::FromBroker{m}); });
}

void WorkerProcess::arrives(worker::FromGiver message) {
  if (!up()) return;
  post([this, m = std::move(message)] { tell(m); });
}

void WorkerProcess::arrives(worker::FromReceiver message) {
  if (!up()) return;
  post([this, m = std::move(message)] { tell(m); });
}

void WorkerProcess::post(std::function<void()> action) {
  if (hung_) {
    held_.push_back(std::move(action));
  } else {
    action();
  }
}

void WorkerProcess::tell(const worker::Event& event) {
  worker::Output out;
  core_->step(world_.now.mono, event, out);
  carry_out(out);
  plan();
  tick_later();
  world_.in(0, [this, life = incarnation_] {
    if (up() && life == incarnation_ && !hung_) leave_or_go();
  });
}

void WorkerProcess::carry_out(const worker::Output& out) {
  for (const WorkerMessage& m : out.send) send_(m);
  for (const worker::Command& command : out.commands) {
    std::visit([this](const auto& c) { carry_out(c); }, command);
  }
}

void WorkerProcess::carry_out(const worker::Tokenize& c) {
  if (world_.faulty() && world_.rng.chance(world_.scene.stuck_tokenizers)) return;  // for ever
  world_.in(world_.rng.below(3), [this, life = incarnation_, c] {
    if (!up() || life != incarnation_) return;
    post([this, c] { tell(worker::Tokenized{c.job, c.attempt, c.spec->tokens, ""}); });
  });
}

void WorkerProcess::carry_out(const worker::OpenText& c) {
  seeds_[c.job] = c.seed;
  const bool stopped = !c.output.empty() && is_end(c.output.back());
  if (!stopped && !c.complete) return;
  worker::Output out;
  const worker::AlreadyEnded ended{c.job, c.attempt,
                                   stopped ? FinishReason::stop : FinishReason::length,
                                   stopped ? tail_after(c.output.back()) : ""};
  core_->step(world_.now.mono, ended, out);
  carry_out(out);
}

void WorkerProcess::carry_out(const worker::CloseText& c) { seeds_.erase(c.job); }

void WorkerProcess::make_copies() {
  for (const engine::PageCopy& c : kv_->take_copies()) {
    std::copy_n(memory_.begin() + c.from * kPageTokens, kPageTokens,
                memory_.begin() + c.to * kPageTokens);
  }
}

void WorkerProcess::carry_out(const worker::SendPage& c) {
  make_copies();
  auto bytes = std::make_shared<std::vector<std::byte>>(kPageBytes);
  std::memcpy(bytes->data(), memory_.data() + c.pool_page * kPageTokens, kPageBytes);
  worker::SendPage whole = c;
  whole.page.bytes = std::move(bytes);
  peers(whole, name_);
}

void WorkerProcess::carry_out(const worker::StorePage& c) {
  make_copies();
  std::memcpy(memory_.data() + c.pool_page * kPageTokens, c.bytes->data(), kPageBytes);
}

void WorkerProcess::carry_out(const worker::MovePages& c) {
  make_copies();
  const auto lives = [this, life = incarnation_] { return up() && life == incarnation_; };
  tiers_->begin(c, lives, [this](const worker::PagesMoved& moved) {
    post([this, moved] { tell(moved); });
  });
}

int32_t WorkerProcess::tenant_of(JobNumber job) const {
  const std::string name = world_.tenant_of ? world_.tenant_of(job) : "";
  return name.empty() ? 0 : name.back();
}

void WorkerProcess::write_row(engine::SequenceId sequence, int64_t row, KvRow value) {
  const int32_t page = kv_->page_table(sequence)[static_cast<size_t>(row / kPageTokens)];
  tiers_->judge_write(page);
  memory_[static_cast<size_t>(page * kPageTokens + row % kPageTokens)] = value;
}

// A sequence's rows are those of its tokens, wherever they were computed.
void WorkerProcess::judge_kv(engine::SequenceId sequence, int32_t tenant) {
  const auto tokens = kv_->tokens(sequence);
  const auto pages = kv_->page_table(sequence);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto at = static_cast<size_t>(pages[i / kPageTokens]) * kPageTokens + i % kPageTokens;
    if (memory_[at].token != tokens[i]) {
      throw Contradiction(name_ + " decodes on KV of other tokens");
    }
    if (memory_[at].tenant != tenant) {
      throw Contradiction(name_ + " decodes on KV of another tenant");
    }
  }
}

void WorkerProcess::plan() {
  if (stepping_) return;
  worker::Output out;
  const worker::Step step = core_->plan(world_.now.mono, out);
  carry_out(out);
  if (step.empty()) return;
  stepping_ = true;
  world_.in(world_.rng.between(1, 4), [this, life = incarnation_, step] {
    if (!up() || life != incarnation_) return;
    post([this, step] {
      stepping_ = false;
      tell(run(step));
    });
  });
}

worker::StepDone WorkerProcess::run(const worker::Step& step) {
  worker::StepDone done;
  if (world_.faulty() && world_.rng.chance(world_.scene.bad_rows / 4)) {
    done.error = "the device is gone for a moment";
    return done;
  }
  make_copies();
  for (const worker::StepRow& row : step.rows) done.rows.push_back(run_row(row));
  return done;
}

worker::RowResult WorkerProcess::run_row(const worker::StepRow& row) {
  worker::RowResult r;
  r.job = row.job;
  r.attempt = row.attempt;
  if (world_.faulty() && world_.rng.chance(world_.scene.bad_rows)) {
    r.error = "logits that are no numbers";
    return r;
  }
  if (!kv_->reserved(row.sequence, std::ssize(row.tokens))) {
    throw Contradiction(name_ + " runs rows without pages");
  }
  const int64_t before = kv_->length(row.sequence);
  const int32_t tenant = tenant_of(row.job);
  for (size_t i = 0; i < row.tokens.size(); ++i) {
    write_row(row.sequence, before + static_cast<int64_t>(i), {row.tokens[i], tenant});
  }
  kv_->commit(row.sequence, row.tokens);
  r.sampled = row.sample;
  if (!row.sample) return r;
  if (kv_->length(row.sequence) != row.position) {
    throw Contradiction(name_ + " samples at another position than its KV's end");
  }
  judge_kv(row.sequence, tenant);
  if (world_.on_decode) world_.on_decode(row.job, row.attempt, name_, incarnation_);
  r.token = next_token(kv_->tokens(row.sequence), seeds_.at(row.job));
  r.text = text_of(r.token);
  r.end_token = is_end(r.token);
  if (r.end_token || row.last) r.tail_text = tail_after(r.token);
  return r;
}

void WorkerProcess::tick_later() {
  const broker::Time due = core_->next_deadline();
  if (due == broker::Time::max() || due >= tick_at_) return;
  tick_at_ = due;
  const int64_t ms = std::max<int64_t>((due - world_.now.mono) / milliseconds(1), 0) + 1;
  world_.in(ms, [this, life = incarnation_, due] {
    if (!up() || life != incarnation_ || tick_at_ != due) return;
    post([this] {
      tick_at_ = broker::Time::max();
      tell(worker::Tick{});
    });
  });
}

}  // namespace limpet::sim
