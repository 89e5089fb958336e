#include "broker/broker.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "broker/config_file.h"
#include "broker/listing.h"
#include "broker/worker_page.h"
#include "probes/log_value.h"
#include "schema/wire.h"

namespace limpet::broker {
namespace {

using std::chrono::milliseconds;
using probes::log_value;

constexpr milliseconds kLongestWait{200};
constexpr milliseconds kGaugesEvery{250};
constexpr milliseconds kRetireEvery{100};
constexpr int64_t kClosedAtOnce = 64;  // sessions, when the store is full
constexpr int64_t kAliveMs = 10000;

Now read_clocks() {
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  return {std::chrono::steady_clock::now(),
          std::chrono::duration_cast<milliseconds>(wall).count()};
}

int64_t mono_ms() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<milliseconds>(now).count();
}

}  // namespace

Broker::Broker(const BrokerOptions& options)
    : store_(Store::open(options.store)),
      core_(options.core),
      transport_(options.endpoints),
      streams_(*store_,
               [this](ClientId c, const std::string& f) { return transport_.send(c, f); }),
      flags_retention_(options.retention),
      flags_retain_sessions_(options.core.retain_sessions),
      retention_(options.retention),
      config_(options.config),
      reloads_(options.reloads) {
  configure();
  store_->snapshot([this](const JournalEntry& entry) { core_.apply(entry); });
  now_ = read_clocks();
  core_.recovered(now_);
  last_turn_ms_ = mono_ms();
  for (const std::string& place : store_->mended()) {
    spdlog::warn("event=store_mended what=\"a flipped bit of the write-ahead log\" at={}",
                 log_value(place));
  }
  const auto stored = store_->counters();
  spdlog::info("event=started frontend={} backend={} sessions={} live_jobs={}",
               transport_.frontend(), transport_.backend(), stored.sessions, stored.live_jobs);
}

bool Broker::alive() const { return mono_ms() - last_turn_ms_ < kAliveMs; }

void Broker::run(const std::atomic<bool>& stop) {
  while (!stop) turn();
  streams_.flush();
}

milliseconds Broker::wait() const {
  if (streams_.behind()) return milliseconds(1);
  const Time deadline = core_.next_deadline();
  const Time now = std::chrono::steady_clock::now();
  if (deadline <= now) return milliseconds(0);
  if (deadline - now > kLongestWait) return kLongestWait;
  return std::chrono::ceil<milliseconds>(deadline - now);
}

void Broker::configure() {
  if (config_.empty()) return;
  const BrokerConfig config = read_config(config_);
  core_.set_policies(config.tenants);
  retention_ = flags_retention_;
  if (config.retain_jobs_s) retention_.jobs_ms = *config.retain_jobs_s * 1000;
  if (config.retain_bytes) retention_.bytes = *config.retain_bytes;
  core_.set_retention(config.retain_sessions_s ? std::chrono::seconds(*config.retain_sessions_s)
                                               : flags_retain_sessions_);
}

// A file that is wrong changes nothing.
void Broker::reload() {
  if (config_.empty()) return;
  try {
    configure();
    spdlog::info("event=config_reloaded file={}", config_);
  } catch (const ConfigError& e) {
    spdlog::error("event=config_refused why={} note=\"the one before holds on\"",
                  log_value(e.what()));
  }
}

void Broker::turn() {
  events_.clear();
  if (reloads_ != nullptr && *reloads_ != reloads_seen_) {
    reloads_seen_ = *reloads_;
    transport_.reload_keys();
    reload();
  }
  transport_.poll(wait(), events_);
  now_ = read_clocks();
  last_turn_ms_ = mono_ms();
  out_.append.clear();
  out_.send.clear();
  out_.facts.clear();
  listing_.clear();
  for (Event& event : events_) {
    if (refused_listing(event)) continue;
    prepare(event);
    core_.step(now_, event, out_);
  }
  if (core_.next_deadline() <= now_.mono) core_.step(now_, Wake{}, out_);
  if (std::exchange(store_full_, false)) core_.step(now_, CloseUnused{kClosedAtOnce}, out_);
  commit();
  for (const Fact& fact : out_.facts) note(fact);
  for (const ErrorCode code : transport_.take_refused()) count_refusal("", code);
  for (const auto& [reason, n] : transport_.take_refused_handshakes()) {
    metrics_.handshakes_refused(reason, n);
  }
  deliver();
  retire();
  if (now_.mono - gauges_at_ >= kGaugesEvery) {
    gauges_at_ = now_.mono;
    metrics_.set(core_.gauges());
    metrics_.store_bytes(store_->bytes_used());
    std::string page = broker::worker_page(core_.worker_costs());
    const std::lock_guard lock(page_mutex_);
    page_ = std::move(page);
  }
}

// A bite now and then: what is answered waits for it no longer than for one more commit.
void Broker::retire() {
  if (now_.mono - retired_at_ < kRetireEvery) return;
  retired_at_ = now_.mono;
  if (retention_ == Store::Retention{}) return;
  const Store::Retired done = store_->retire(retention_, now_.wall);
  metrics_.retired_jobs(done.by_age, done.by_size);
  store_full_ = done.stuck;
}

std::string Broker::worker_page() const {
  const std::lock_guard lock(page_mutex_);
  return page_;
}

void Broker::count_refusal(const std::string& job_id, ErrorCode code) {
  note({Fact::Kind::rejected, job_id, std::string(name(code)), 0, false, {}});
}

// A listing is large and its question small, so a client has one at a time: one in a turn, and
// none while there are answers that it does not read.
bool Broker::refused_listing(const Event& event) {
  const auto* e = std::get_if<ClientEvent>(&event);
  if (e == nullptr || !std::holds_alternative<List>(e->message)) return false;
  if (listing_.insert(e->client).second && !streams_.unread(e->client)) return false;
  count_refusal("", ErrorCode::busy);
  out_.send.push_back(ToClient{
      e->client, Refused{"", ErrorCode::busy, "read the listing that you asked for before", 100}});
  return true;
}

// What the core cannot know by itself: the body's hash, and what the store remembers of the id.
void Broker::prepare(Event& event) {
  if (auto* gone = std::get_if<ClientGone>(&event)) return streams_.forget(gone->client);
  auto* e = std::get_if<ClientEvent>(&event);
  if (e == nullptr) return;
  if (const auto* submit = std::get_if<Submit>(&e->message)) {
    if (!submit->spec) return;
    e->body_hash = wire::body_hash(*submit->spec);
    e->stored = store_->find_job(e->tenant, submit->spec->job_id);
  } else if (const auto* attach = std::get_if<Attach>(&e->message)) {
    e->stored = store_->find_job(e->tenant, attach->job_id);
  } else if (const auto* cancel = std::get_if<Cancel>(&e->message)) {
    e->stored = store_->find_job(e->tenant, cancel->job_id);
  } else if (const auto* retry = std::get_if<Retry>(&e->message)) {
    const bool another = !retry->tenant.empty() && retry->tenant != e->tenant;
    if (another && !e->admin) return;
    e->stored = store_->find_job(another ? retry->tenant : e->tenant, retry->job_id);
    const bool failed = e->stored && e->stored->state == JobState::failed;
    if (failed) e->stored->spec = store_->body(e->stored->job);
  }
}

void Broker::commit() {
  if (out_.append.empty()) return;
  const Time start = std::chrono::steady_clock::now();
  try {
    store_->commit(out_.append);
  } catch (const StoreError& error) {
    refuse_batch(error.what());
    throw;
  }
  core_.committed();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  metrics_.committed(took.count(), out_.append.size());
}

void Broker::refuse_batch(const std::string& why) {
  for (const Event& event : events_) {
    const auto* e = std::get_if<ClientEvent>(&event);
    const auto* submit = e ? std::get_if<Submit>(&e->message) : nullptr;
    if (submit == nullptr || !submit->spec || e->stored) continue;  // what is durable stays so
    count_refusal(submit->spec->job_id, ErrorCode::storage);
    const BrokerToClient m = Refused{submit->spec->job_id, ErrorCode::storage, why, 0};
    transport_.send(e->client, wire::encode(std::span(&m, 1)));
  }
}

void Broker::deliver() {
  for (Send& send : out_.send) {
    if (auto* event = std::get_if<JobEvent>(&send)) {
      metrics_.follow(*event, now_.mono);
      streams_.event(std::move(*event));
    } else if (auto* to_client = std::get_if<ToClient>(&send)) {
      deliver(std::move(*to_client));
    } else if (auto* to_worker = std::get_if<ToWorker>(&send)) {
      deliver(std::move(*to_worker));
    } else if (auto* opened = std::get_if<StreamOpened>(&send)) {
      streams_.open(*opened);
    } else {
      streams_.close(std::get<StreamClosed>(send));
    }
  }
  for (auto& [worker, messages] : to_workers_) {
    if (messages.empty()) continue;
    transport_.send(worker, messages);
    messages.clear();
  }
  if (to_workers_.size() > 256) to_workers_.clear();  // connections come and go
  streams_.flush();
}

// Not of those whose time is over, which are kept for their sessions' transcripts.
void Broker::add_ended(Listed& listed, List list, const std::string* tenant) {
  if (retention_.jobs_ms > 0) list.since = std::max(list.since, now_.wall - retention_.jobs_ms);
  constexpr uint32_t kEnded = ~((1u << raw(JobState::finished)) - 1);
  if (list.states != 0 && (list.states & kEnded) == 0) return;
  ListingRoom room{std::min<size_t>(list.limit, Limits::kItems)};
  for (const JobInfo& info : listed.jobs) room.take(info);
  if (listed.truncated || room.items == 0) return;
  const size_t most = std::min(room.items, room.bytes / kListedItem);
  Store::Ended ended = store_->ended_jobs(list, most, tenant);
  listed.truncated = ended.more;
  for (JobInfo& info : ended.jobs) {
    shorten(info.detail, kListedDetail);
    if (!room.take(info)) {
      listed.truncated = true;
      return;
    }
    listed.jobs.push_back(std::move(info));
  }
}

// A listing of jobs tells of the live ones; those that have ended are in the store.
void Broker::deliver(ToClient&& m) {
  auto* listed = std::get_if<Listed>(&m.message);
  if (listed != nullptr && listed->workers.empty() && listed->sessions.empty()) {
    const List* jobs = nullptr;
    const std::string* tenant = nullptr;  // null: of all
    for (const Event& event : events_) {
      const auto* e = std::get_if<ClientEvent>(&event);
      const auto* list = e && e->client == m.client ? std::get_if<List>(&e->message) : nullptr;
      if (list == nullptr) continue;
      if (list->what == Listing::jobs) jobs = list;
      if (!e->admin) tenant = &e->tenant;
      break;  // its others of this turn are refused
    }
    if (jobs != nullptr) add_ended(*listed, *jobs, tenant);
  }
  streams_.answer(m.client, std::move(m.message));
}

void Broker::deliver(ToWorker&& m) {
  if (m.fill_transcript) {
    auto* dispatch = std::get_if<Dispatch>(&m.message);
    auto* reply = std::get_if<TranscriptReply>(&m.message);
    auto tokens = store_->transcript_of(dispatch ? dispatch->job : reply->job);
    if (!tokens) return;  // ended in this same turn: the worker need not hear of it
    if (m.keep_tokens >= 0 && std::ssize(*tokens) > m.keep_tokens) {
      tokens->resize(static_cast<size_t>(m.keep_tokens));
    }
    (dispatch ? dispatch->transcript : reply->transcript) = std::move(*tokens);
  }
  auto it = std::find_if(to_workers_.begin(), to_workers_.end(),
                         [&](const auto& entry) { return entry.first == m.worker; });
  if (it == to_workers_.end()) it = to_workers_.insert(it, {m.worker, {}});
  it->second.push_back(std::move(m.message));
}

void Broker::note(const Fact& f) {
  metrics_.count(f);
  const auto line = [&](spdlog::level::level_enum level, const char* event, const char* subject,
                        const char* detail) {
    const std::string tenant = f.tenant.empty() ? "" : " tenant=" + log_value(f.tenant);
    spdlog::log(level, "event={} {}={}{} {}={}", event, subject, log_value(f.subject), tenant,
                detail, log_value(f.detail));
  };
  using spdlog::level::debug, spdlog::level::info, spdlog::level::warn;
  switch (f.kind) {
    case Fact::Kind::job_accepted: break;
    case Fact::Kind::job_ended: line(debug, "job_ended", "job", "outcome"); break;
    case Fact::Kind::dispatched: line(debug, "job_started", "job", "reason"); break;
    case Fact::Kind::requeued: line(warn, "job_requeued", "job", "why"); break;
    case Fact::Kind::affinity_break: line(info, "session_moved", "session", "why"); break;
    case Fact::Kind::rejected: line(debug, "refused", "job", "code"); break;
    case Fact::Kind::worker_registered: line(info, "worker_registered", "worker", "note"); break;
    case Fact::Kind::worker_lost: line(warn, "worker_lost", "worker", "why"); break;
    case Fact::Kind::worker_left: line(info, "worker_left", "worker", "note"); break;
    case Fact::Kind::stale_message: line(debug, "stale_message", "worker", "message"); break;
    case Fact::Kind::home_kept: line(info, "homes_kept", "worker", "sessions"); break;
    case Fact::Kind::hand_over: line(info, "hand_over", "session", "outcome"); break;
    case Fact::Kind::session_retired: line(info, "session_retired", "session", "why"); break;
    case Fact::Kind::first_token:
    case Fact::Kind::queue_left: break;
  }
}

}  // namespace limpet::broker
