#include "tests/sim/broker_process.h"

#include <algorithm>
#include <utility>

#include "tests/sim/describe.h"

namespace limpet::sim {
namespace {

[[noreturn]] void violated(const std::string& what) { throw Contradiction(what); }

std::string tag(JobNumber job) { return "job " + std::to_string(raw(job)) + ": "; }

// The attempt for which a worker really said something of this job; 0 when it did not.
Attempt said_by(const WorkerMessage& message, JobNumber job) {
  if (const auto* m = std::get_if<JobStarted>(&message))
    return m->job == job ? m->attempt : Attempt{};
  if (const auto* m = std::get_if<JobEnded>(&message))
    return m->job == job ? m->attempt : Attempt{};
  if (const auto* m = std::get_if<StepTokens>(&message)) {
    for (const StepRow& row : m->rows)
      if (row.job == job) return row.attempt;
  }
  return Attempt{};
}

}  // namespace

BrokerProcess::BrokerProcess(World& world, ToClient to_client, ToWorker to_worker)
    : world_(world), to_client_(std::move(to_client)), to_worker_(std::move(to_worker)),
      turns_(world) {
  start();
}

// What the operator's file says; a planted bug is somewhere between it and the core.
void BrokerProcess::set_policies() {
  if (!up()) return;
  broker::TenantPolicies told = world_.scene.policies;
  for (auto& [tenant, policy] : told.named) {
    if (world_.plant == Plant::running_cap_ignored) policy.max_running_jobs = 0;
    if (world_.plant == Plant::queue_cap_ignored) policy.max_queued_jobs = 0;
    if (world_.plant == Plant::kv_cap_ignored) policy.max_resident_tokens = 0;
  }
  if (world_.plant == Plant::tenant_favoured) told.named[world_.scene.tenant(0)].weight *= 1000;
  core_->set_policies(told);
}

void BrokerProcess::stall(int64_t ms) {
  world_.trace("broker stalls for ", std::to_string(ms));
  stalled_until_ = world_.ms() + ms;
}

void BrokerProcess::fill_disk(int64_t ms) {
  world_.trace("disk full for ", std::to_string(ms));
  full_until_ = world_.ms() + ms;
}

void BrokerProcess::start() {
  ++life_;
  core_ = std::make_unique<broker::Core>(world_.scene.core);
  for (const JournalEntry& entry : disk_.snapshot()) {
    const bool numbers = std::holds_alternative<broker::NumbersReserved>(entry);
    if (world_.plant == Plant::numbers_reused && numbers) continue;
    core_->apply(entry);
  }
  set_policies();
  core_->recovered(world_.now);
  wake_at_ = broker::Time::max();
  turn_due_ = false;
  wake_later();
  world_.trace("broker up, life ", std::to_string(life_));
}

void BrokerProcess::crash() {
  world_.trace("broker crashes");
  ++world_.verdict.broker_crashes;
  ++life_;
  core_.reset();
  inbox_.clear();
  streams_.clear();
  crash_ = Crash::none;
  world_.in(world_.rng.between(1, 300), [this] { start(); });
}

void BrokerProcess::arrives(broker::Event event, std::shared_ptr<const Origin> origin) {
  if (!up()) return;
  inbox_.push_back({std::move(event), std::move(origin)});
  if (turn_due_) return;
  turn_due_ = true;
  const int64_t stalled = std::max<int64_t>(stalled_until_ - world_.ms(), 0);
  world_.in(stalled + world_.rng.below(2), [this, life = life_] {
    if (life == life_) turn();
  });
}

void BrokerProcess::wake_later() {
  const broker::Time due = core_->next_deadline();
  if (due >= wake_at_) return;
  wake_at_ = due;
  const int64_t ms = std::max<int64_t>((due - world_.now.mono) / milliseconds(1), 0) + 1;
  world_.in(ms, [this, life = life_, due] {
    if (life != life_ || wake_at_ != due) return;
    wake_at_ = broker::Time::max();
    arrives(broker::Wake{});
  });
}

// What the shell adds to an event before the core sees it.
broker::Event BrokerProcess::looked_up(broker::Event event) {
  if (auto* e = std::get_if<broker::ClientEvent>(&event)) {
    const auto* submit = std::get_if<Submit>(&e->message);
    const auto* attach = std::get_if<Attach>(&e->message);
    const auto* cancel = std::get_if<Cancel>(&e->message);
    const std::string id = submit   ? submit->spec->job_id
                           : attach ? attach->job_id
                           : cancel ? cancel->job_id
                                    : "";
    if (world_.plant != Plant::ended_forgotten) e->stored = disk_.find_ended(id, e->tenant);
  } else if (const auto* gone = std::get_if<broker::ClientGone>(&event)) {
    std::erase_if(streams_, [&](const auto& s) { return s.first.first == gone->client; });
  }
  return event;
}

void BrokerProcess::turn() {
  turn_due_ = false;
  broker::Output out;
  std::vector<Decided> decided;
  std::vector<broker::Event> events;
  for (Arrival& a : std::exchange(inbox_, {})) {
    events.push_back(looked_up(std::move(a.event)));
    const auto* asked = std::get_if<broker::ClientEvent>(&events.back());
    const size_t begin = out.append.size();
    core_->step(world_.now, events.back(), out);
    decided.push_back({begin, out.append.size(), a.origin,
                       asked ? std::optional(asked->client) : std::nullopt});
  }
  for (const broker::Fact& f : out.facts) {
    if (f.kind == broker::Fact::Kind::hand_over) {
      world_.verdict.hand_overs_failed += f.detail != "moved";
    }
  }
  if (!out.append.empty() && world_.ms() < full_until_) return disk_is_full(events);
  const Crash crash_now = out.append.empty() ? Crash::none : crash_;
  if (world_.plant == Plant::send_before_commit) send(out, out.send.size());
  if (crash_now == Crash::before_commit) return crash();
  commit(out, decided);
  core_->committed();
  if (crash_now == Crash::after_commit) return crash();
  const bool cut = crash_now == Crash::between_sends && !out.send.empty();
  if (world_.plant != Plant::send_before_commit) {
    send(out, cut ? static_cast<size_t>(world_.rng.below(std::ssize(out.send))) : out.send.size());
  }
  if (crash_now == Crash::between_sends) return crash();
  wake_later();
}

// The turn's requests are refused, and a new core begins from what is durable.
void BrokerProcess::disk_is_full(const std::vector<broker::Event>& events) {
  ++world_.verdict.full_disks;
  for (const broker::Event& event : events) {
    const auto* e = std::get_if<broker::ClientEvent>(&event);
    const auto* submit = e ? std::get_if<Submit>(&e->message) : nullptr;
    if (submit == nullptr || e->stored) continue;
    to_client_(e->client, Refused{submit->spec->job_id, ErrorCode::storage, "full", 0});
  }
  crash();
}

void BrokerProcess::commit(const broker::Output& out, const std::vector<Decided>& decided) {
  for (const Decided& d : decided) {
    for (size_t i = d.begin; i < d.end; ++i) {
      const JournalEntry& entry = out.append[i];
      if (world_.tracing) world_.trace(describe(entry));
      judge(entry, d.origin.get());
      judge_tenant(entry, d);
      if (world_.scene.solo) turns_.judge(entry, disk_);
      const bool tokens = std::holds_alternative<broker::TokensAppended>(entry);
      if (tokens && world_.plant == Plant::tokens_not_durable && world_.rng.chance(20)) continue;
      const auto* home = std::get_if<broker::HomeSet>(&entry);
      const bool moved = home && d.origin &&
                         std::holds_alternative<SessionReceived>(d.origin->message) &&
                         home->reason == Reason::drained;
      world_.verdict.hand_overs += moved;
      if (moved && world_.plant == Plant::move_not_durable) continue;
      disk_.commit({&entry, 1});
      if (const auto* e = std::get_if<broker::JobDispatched>(&entry)) judge_caps(*e);
      if (const auto* e = std::get_if<broker::TokensAppended>(&entry)) judge_growth(*e);
      note_idle(entry);
    }
    for (size_t i = d.begin; i < d.end; ++i) {  // by then all that its end brings is decided
      if (const auto* e = std::get_if<broker::JobEndedEntry>(&out.append[i])) judge_idle_cap(*e);
    }
  }
  judge_credit();
}

// What a client asks for is its own tenant's, in the session that it named.
void BrokerProcess::judge_tenant(const JournalEntry& entry, const Decided& by) {
  const auto* e = std::get_if<broker::JobAccepted>(&entry);
  if (!e) return;
  const ReferenceStore::Session& s = *disk_.find(e->session);
  if (!by.client || s.tenant != (tenant_of ? tenant_of(*by.client) : "")) {
    violated(tag(e->job) + "taken into a session of another tenant");
  }
  if (s.name != e->spec->session) violated(tag(e->job) + "taken into another session");
  judge_queue_cap(s.tenant);
}

broker::TenantPolicy BrokerProcess::policy(const std::string& tenant) const {
  const auto it = world_.scene.policies.named.find(tenant);
  return it == world_.scene.policies.named.end() ? world_.scene.policies.standard : it->second;
}

// Before one more is taken.
void BrokerProcess::judge_queue_cap(const std::string& tenant) {
  const int64_t most = policy(tenant).max_queued_jobs;
  if (most == 0) return;
  int64_t queued = 0;
  for (const auto& [number, job] : disk_.jobs()) {
    queued += job.state == JobState::queued && disk_.find(job.accepted.session)->tenant == tenant;
  }
  if (queued >= most) violated("cap exceeded: a tenant has more jobs queued than it may");
}

// Tokens that its session may come to hold by it.
int64_t BrokerProcess::longest(const ReferenceStore::Job& job) const {
  const ReferenceStore::Session& s = *disk_.find(job.accepted.session);
  const JobSpec& spec = *job.accepted.spec;
  const int64_t all = std::ssize(s.transcript);
  const int64_t unstarted =
      (spec.rewind_to < 0 ? all : std::min(spec.rewind_to, all)) + std::ssize(spec.tokens);
  const int64_t before = job.has_prompt ? job.base + std::ssize(job.prompt) : unstarted;
  const int64_t cap = s.max_tokens > 0 ? s.max_tokens : before + spec.max_tokens;
  return std::min(std::min(before + spec.max_tokens, cap),
                  std::min(world_.scene.max_context, 4 * world_.scene.pages));
}

void BrokerProcess::judge_growth(const broker::TokensAppended& e) {
  for (const broker::OutputRow& row : e.rows) {
    const ReferenceStore::Session& s = *disk_.find(disk_.find(row.job)->accepted.session);
    const auto cap = world_.caps.find({s.tenant, s.name});
    if (cap != world_.caps.end() && !s.name.empty() && std::ssize(s.transcript) > cap->second) {
      violated(tag(row.job) + "its session grows beyond what its client allowed");
    }
  }
}

void BrokerProcess::note_idle(const JournalEntry& entry) {
  if (const auto* e = std::get_if<broker::JobEndedEntry>(&entry)) {
    const SessionNumber session = disk_.find(e->job)->accepted.session;
    idle_since_.erase(session);
    // What failed may have left no KV.
    const bool all_there = e->state == JobState::finished && disk_.find(session)->lane.empty();
    if (all_there) idle_since_[session] = world_.ms();
  } else if (const auto* e = std::get_if<broker::JobAccepted>(&entry)) {
    const auto since = idle_since_.find(e->session);
    if (since == idle_since_.end()) return;
    idle_before_[e->job] = world_.ms() - since->second;
    idle_since_.erase(since);
  } else if (const auto* e = std::get_if<broker::HomeSet>(&entry)) {
    if (!e->worker.empty()) idle_since_.erase(e->session);
  }
}

// Where there is room and nothing goes wrong, idle KV is there as long as was asked for, no longer.
void BrokerProcess::judge_kept(const broker::StartedEntry& e) {
  const ReferenceStore::Job& job = *disk_.find(e.job);
  const ReferenceStore::Session& s = *disk_.find(job.accepted.session);
  const auto asked = world_.keep_alives.find({s.tenant, s.name});
  const auto idle = idle_before_.find(e.job);
  if (s.name.empty() || asked == world_.keep_alives.end() || idle == idle_before_.end()) return;
  constexpr int64_t kTurn = 10;  // ms: a turn of the broker is not at once
  // One that was given up may find its pages all the same, as a prefix of its tenant's.
  const bool kept = s.reason == Reason::none && e.residency == Residency::resident;
  if (kept && idle->second > asked->second + kTurn) {
    violated(tag(e.job) + "its session's KV is kept beyond its time");
  }
  if (e.reason == Reason::evicted && idle->second < asked->second - kTurn) {
    violated(tag(e.job) + "its session's KV is given up before its time");
  }
}

// A tenant's jobs in flight, when one more begins. A single one may be larger than the cap.
void BrokerProcess::judge_caps(const broker::JobDispatched& e) {
  const std::string& tenant = disk_.find(disk_.find(e.job)->accepted.session)->tenant;
  const broker::TenantPolicy p = policy(tenant);
  int64_t jobs = 0, kv = 0;
  for (const auto& [number, job] : disk_.jobs()) {
    if (job.state != JobState::dispatched && job.state != JobState::running) continue;
    if (disk_.find(job.accepted.session)->tenant != tenant) continue;
    ++jobs;
    kv += longest(job);
  }
  if (jobs == 1) return;
  if (p.max_running_jobs > 0 && jobs > p.max_running_jobs) {
    violated("cap exceeded: a tenant has more jobs running than it may");
  }
  if (p.max_resident_tokens > 0 && kv > p.max_resident_tokens) {
    violated("cap exceeded: a tenant's jobs need more KV than it may have");
  }
}

// The KV of a tenant's sessions, when its last job has ended.
void BrokerProcess::judge_idle_cap(const broker::JobEndedEntry& e) {
  const std::string& tenant = disk_.find(disk_.find(e.job)->accepted.session)->tenant;
  const int64_t most = policy(tenant).max_resident_tokens;
  if (most == 0) return;
  int64_t kv = 0;
  for (const auto& [number, s] : disk_.sessions()) {
    if (s.closed || s.tenant != tenant) continue;
    if (!s.lane.empty()) return;
    if (!s.home.empty()) kv += std::ssize(s.transcript);
  }
  if (kv > most) violated("cap exceeded: a tenant's idle sessions need more KV than it may have");
}

// An attempt's reports become durable only while it is the current one, at the current home.
void BrokerProcess::judge_source(JobNumber number, const Origin* origin) {
  const ReferenceStore::Job* job = disk_.find(number);
  if (!job || !origin) violated(tag(number) + "progress that no worker reported");
  const ReferenceStore::Session& s = *disk_.find(job->accepted.session);
  if (said_by(origin->message, number) != job->attempt || origin->worker != s.home ||
      origin->incarnation != s.incarnation) {
    violated(tag(number) + "an old owner's report became durable: " + origin->worker);
  }
}

void BrokerProcess::judge_token(const ReferenceStore::Job& job, std::span<const Token> transcript,
                                Token token) {
  if (token != next_token(transcript, job.accepted.seed)) {
    violated(tag(job.accepted.job) + "a token that its transcript does not give");
  }
}

void BrokerProcess::judge(const JournalEntry& entry, const Origin* origin) {
  if (const auto* e = std::get_if<broker::StartedEntry>(&entry)) {
    judge_source(e->job, origin);
    ++world_.verdict.attempts;
    world_.verdict.resident_starts += e->residency == Residency::resident;
    world_.verdict.restored_starts += e->residency == Residency::restored;
    world_.verdict.migrated_starts += e->residency == Residency::migrated;
    if (world_.scene.calm) judge_kept(*e);
    const auto& session = *disk_.find(disk_.find(e->job)->accepted.session);
    const bool timed = world_.keep_alives.contains({session.tenant, session.name});
    if (world_.scene.calm && e->residency == Residency::reprefilled && !timed &&
        e->reason != Reason::new_session) {
      violated(tag(e->job) + "prefilled again though its home left in peace and others had room");
    }
    const ReferenceStore::Job* job = disk_.find(e->job);
    if (e->has_prompt && e->prompt != job->accepted.spec->tokens) {
      violated(tag(e->job) + "another prompt than was submitted");
    }
  } else if (const auto* e = std::get_if<broker::TokensAppended>(&entry)) {
    for (const broker::OutputRow& row : e->rows) {
      judge_source(row.job, origin);
      const ReferenceStore::Job& job = *disk_.find(row.job);
      std::vector<Token> transcript = disk_.transcript(row.job);
      std::string text;
      for (const Token token : row.ids) {
        judge_token(job, transcript, token);
        transcript.push_back(token);
        text += text_of(token);
        ++world_.verdict.tokens;
      }
      if (row.text != text) violated(tag(row.job) + "text that its tokens do not give");
    }
  } else if (const auto* e = std::get_if<broker::JobEndedEntry>(&entry)) {
    if (e->state == JobState::finished) judge_source(e->job, origin);
    judge_end(*e);
  } else if (const auto* e = std::get_if<broker::HomeSet>(&entry)) {
    const auto* dropped = origin ? std::get_if<SessionDropped>(&origin->message) : nullptr;
    if (dropped && dropped->session == e->session && e->worker.empty() &&
        dropped->epoch != disk_.find(e->session)->epoch) {
      violated("session " + std::to_string(raw(e->session)) + ": given up on an old lease's word");
    }
    ++world_.verdict.moves;
  }
}

// What finished is what an undisturbed run would have given: its tokens are the transcript's
// (judged one by one), and it ends where that run would have ended.
void BrokerProcess::judge_end(const broker::JobEndedEntry& end) {
  if (end.state != JobState::finished) return;
  const ReferenceStore::Job& job = *disk_.find(end.job);
  const int64_t before = job.base + std::ssize(job.prompt);
  int64_t room = std::min(world_.scene.max_context, 4 * world_.scene.pages) - before;
  if (job.cap > 0) room = std::min(room, job.cap - before);
  const int64_t most = std::min<int64_t>(job.accepted.spec->max_tokens, room);
  const auto stop = std::ranges::find_if(job.output, is_end);
  const bool stopped = stop != job.output.end();
  const bool right = stopped ? stop + 1 == job.output.end() && end.reason == FinishReason::stop
                             : std::ssize(job.output) == most && end.reason == FinishReason::length;
  if (!right) violated(tag(end.job) + "ends where an undisturbed run would not");
  if (end.tail_text != (stopped ? tail_after(*stop) : "")) violated(tag(end.job) + "another tail");
}

// Never more jobs in flight to a worker than it has places, nor, but for a single job, than its KV
// holds at their longest. (Where sessions share pages it holds more than that.)
void BrokerProcess::judge_credit() {
  at_worker_.clear();
  kv_at_worker_.clear();
  const int64_t pool = 4 * world_.scene.pages;
  const int64_t longest = std::min(world_.scene.max_context, pool);
  for (const auto& [number, job] : disk_.jobs()) {
    if (job.state != JobState::dispatched && job.state != JobState::running) continue;
    const ReferenceStore::Session& s = *disk_.find(job.accepted.session);
    if (++at_worker_[{s.home, s.incarnation}] > world_.scene.slots) {
      violated("credit exceeded: " + s.home + " has more jobs than places");
    }
    int64_t& kv = kv_at_worker_[{s.home, s.incarnation}];
    kv += std::min((this->longest(job) + 3) / 4 * 4, longest);
    if (world_.scene.share_prefixes || at_worker_[{s.home, s.incarnation}] == 1) continue;
    if (kv > pool) violated("credit exceeded: " + s.home + " has jobs for more KV than it holds");
  }
}

void BrokerProcess::send(const broker::Output& out, size_t limit) {
  for (size_t i = 0; i < limit; ++i) send_one(out.send[i]);
}

void BrokerProcess::send_one(const broker::Send& one) {
  if (const auto* m = std::get_if<broker::ToClient>(&one)) {
    to_client_(m->client, m->message);
  } else if (const auto* m = std::get_if<broker::ToWorker>(&one)) {
    BrokerToWorker message = m->message;
    if (m->fill_transcript) {
      const auto fill = [&](auto& carrier) {
        carrier.transcript = disk_.transcript(carrier.job);
        if (m->keep_tokens >= 0 && std::ssize(carrier.transcript) > m->keep_tokens) {
          carrier.transcript.resize(static_cast<size_t>(m->keep_tokens));
        }
        if (world_.plant == Plant::wrong_transcript && carrier.transcript.size() > 1) {
          std::swap(carrier.transcript.back(), *(carrier.transcript.end() - 2));
        }
      };
      if (auto* d = std::get_if<Dispatch>(&message)) fill(*d);
      if (auto* r = std::get_if<TranscriptReply>(&message)) fill(*r);
    }
    to_worker_(m->worker, std::move(message));
  } else if (const auto* m = std::get_if<broker::StreamOpened>(&one)) {
    streams_[{m->client, m->job_id}] = {m->job, m->from_index, m->tokens};
    feed(m->client, m->job_id);
  } else if (const auto* m = std::get_if<broker::StreamClosed>(&one)) {
    streams_.erase({m->client, m->job_id});
  } else if (const auto* m = std::get_if<broker::JobEvent>(&one)) {
    std::vector<broker::ClientId> followers;
    for (const auto& [key, stream] : streams_)
      if (stream.job == m->job) followers.push_back(key.first);
    for (const broker::ClientId client : followers) feed(client, m->spec->job_id);
  }
}

// Brings one follower up to what is stored.
void BrokerProcess::feed(broker::ClientId client, const std::string& job_id) {
  const auto it = streams_.find({client, job_id});
  if (it == streams_.end()) return;
  Stream& s = it->second;
  const ReferenceStore::Job* job = disk_.find(s.job);
  if (!job) return;
  if (s.tokens && s.next < std::ssize(job->output)) {
    Tokens m;
    m.job_id = job_id;
    m.first_index = s.next;
    m.ids.assign(job->output.begin() + s.next, job->output.end());
    s.next = std::ssize(job->output);
    to_client_(client, std::move(m));
  }
  if (!job->end) return;
  if (job->end->state == JobState::failed) {
    to_client_(client, Failed{job_id, job->end->code, job->end->message});
  } else {
    to_client_(client, Finished{job_id, job->end->reason, job->end->usage, job->end->timings,
                                job->end->tail_text});
  }
  streams_.erase(it);
}

}  // namespace limpet::sim
