#include "tests/sim/simulation.h"

#include "tests/sim/broker_process.h"
#include "tests/sim/client_process.h"
#include "tests/sim/describe.h"
#include "tests/sim/worker_process.h"

namespace limpet::sim {
namespace {

constexpr const char* kLast = "last-";
constexpr int64_t kHealedMs = 60'000;  // after healing everything must be over by then

uint64_t body_of(const JobSpec& spec) {
  uint64_t h = static_cast<uint64_t>(spec.max_tokens);
  for (const Token t : spec.tokens) h = mixed(h + static_cast<uint64_t>(t));
  return h;
}

// What reaches the broker of a client's wish when a bug has been planted on the way.
std::shared_ptr<const JobSpec> spoilt(const JobSpec& spec, Plant plant) {
  auto changed = std::make_shared<JobSpec>(spec);
  if (plant == Plant::priority_lost) changed->priority = 0;
  if (plant == Plant::keep_alive_lost) changed->keep_alive_ms = -1;
  if (plant == Plant::session_cap_lost) changed->session_max_tokens = 0;
  return changed;
}

// All processes of one run, and the wires between them.
class Cluster {
 public:
  Cluster(uint64_t seed, Plant plant, bool trace)
      : world_(seed, plant, trace),
        broker_(
            world_, [this](auto client, auto m) { to_client(client, std::move(m)); },
            [this](auto worker, auto m) { to_worker(worker, std::move(m)); }) {
    for (int64_t w = 0; w < world_.scene.workers; ++w) {
      workers_.push_back(std::make_unique<WorkerProcess>(
          world_, "w" + std::to_string(w),
          [this, w](WorkerMessage m) { from_worker(w, std::move(m)); }));
      workers_.back()->peers = [this](const worker::Command& c, const std::string& from) {
        between_workers(c, from);
      };
    }
    broker_.tenant_of = [this](broker::ClientId id) { return tenant_of(id); };
    world_.on_decode = [this](JobNumber job, Attempt attempt, const std::string& worker,
                              uint64_t incarnation) {
      const ReferenceStore::Job* known = broker_.disk().find(job);
      if (!known || known->attempt < attempt) {
        throw Contradiction("a worker decodes an attempt that is not durable");
      }
      const bool owner = known->owner == worker && known->owner_incarnation == incarnation;
      if (known->attempt == attempt && !owner) {
        throw Contradiction("a session has two owners: " + worker + " and " + known->owner);
      }
    };
    world_.tenant_of = [this](JobNumber job) {
      const ReferenceStore::Job* known = broker_.disk().find(job);
      return known ? broker_.disk().find(known->accepted.session)->tenant : "";
    };
    for (const auto& worker : workers_) worker->start();
    for (int64_t c = 0; c < world_.scene.clients; ++c) {
      clients_.push_back(std::make_unique<ClientProcess>(
          world_, world_.scene.tenant(c % world_.scene.tenants),
          [this, c](ClientMessage m) { from_client(c, std::move(m)); },
          [this, c] {
            broker_.arrives(broker::ClientGone{client_id(c, clients_[c]->connection() - 1)});
          }));
    }
    for (int64_t j = 0; j < world_.scene.jobs; ++j) draw_job();
    if (world_.scene.tenants > 1) draw_prying();
    draw_faults();
  }

  Verdict run() {
    Verdict& v = world_.verdict;
    try {
      until_over(world_.scene.faulty_ms + kHealedMs);
      ask_last();
      until_over(world_.ms() + kHealedMs);
      judge_last();
      settle();
    } catch (const std::exception& e) {  // a Contradiction, or a core's own check
      v.violation = e.what();
    }
    v.sim_ms = world_.ms();
    v.solo = world_.scene.solo;
    for (const auto& [number, job] : broker_.disk().jobs()) {
      ++v.jobs;
      v.finished += job.state == JobState::finished;
      v.failed += job.state == JobState::failed;
      v.stopped += job.state == JobState::cancelled || job.state == JobState::expired;
    }
    return v;
  }

 private:
  static broker::ClientId client_id(int64_t client, uint64_t connection) {
    return broker::ClientId{connection * 100 + static_cast<uint64_t>(client)};
  }
  // A connection has its name from both ends: each restart gives it another.
  broker::WorkerId worker_id(int64_t worker, uint64_t connection) const {
    return broker::WorkerId{(broker_.life() * 10'000 + connection) * 100 +
                            static_cast<uint64_t>(worker)};
  }

  std::string tenant_of(broker::ClientId id) const {
    const auto c = static_cast<size_t>(raw(id) % 100);
    return c < clients_.size() ? clients_[c]->tenant() : "";
  }
  void draw_job();
  void draw_prying();
  void draw_faults();
  void somebody_leaves();
  void draw_surroundings();
  WorkerProcess& some_worker() {
    return *workers_[static_cast<size_t>(world_.rng.below(std::ssize(workers_)))];
  }
  bool over() const {
    if (world_.faulty()) return false;
    for (const auto& client : clients_)
      if (!client->all_done()) return false;
    return true;
  }
  std::string what_is_open() const {
    for (const auto& client : clients_)
      if (!client->all_done()) return client->first_open();
    return "";
  }
  void until_over(int64_t ms) {
    while (!over()) {
      if (world_.ms() > ms) throw Contradiction("no progress after healing: " + what_is_open());
      if (!world_.run_next()) throw Contradiction("nothing is left to happen");
    }
  }
  void ask_last();
  void judge_last() const;
  void settle();

  void from_client(int64_t c, ClientMessage m) {
    world_.carry(clients_[c]->link(), [this, c, m = std::move(m),
                                       connection = clients_[c]->connection()] {
      broker::ClientEvent e{client_id(c, connection), m, 0, {}, clients_[c]->tenant()};
      if (world_.plant == Plant::tenant_forgotten) e.tenant.clear();
      if (world_.plant == Plant::listing_unfiltered) e.admin = true;
      if (world_.tracing) world_.trace("        broker <- client: ", describe(m));
      if (auto* submit = std::get_if<Submit>(&e.message)) {
        e.body_hash = body_of(*submit->spec);
        if (world_.plant != Plant::none) submit->spec = spoilt(*submit->spec, world_.plant);
      }
      broker_.arrives(std::move(e));
    });
  }
  void to_client(broker::ClientId id, BrokerToClient m) {
    const int64_t c = static_cast<int64_t>(raw(id) % 100);
    if (c >= std::ssize(clients_)) return;  // who has asked for a drain
    world_.carry(clients_[c]->link(), [this, c, id, m = std::move(m)] {
      if (client_id(c, clients_[c]->connection()) == id) clients_[c]->arrives(m);
    });
  }
  void from_worker(int64_t w, WorkerMessage m);
  void to_worker(broker::WorkerId id, BrokerToWorker m);
  void between_workers(const worker::Command& c, const std::string& from);
  WorkerProcess* named(const std::string& name) {
    for (const auto& w : workers_)
      if (w->name() == name) return w.get();
    return nullptr;
  }
  WorkerMessage disguised(const WorkerMessage& m, broker::WorkerId& from) const;
  WorkerMessage of_current_lease(const WorkerMessage& m, broker::WorkerId& from) const;
  void as_home(const ReferenceStore::Session& session, broker::WorkerId& from) const {
    for (size_t w = 0; w < workers_.size(); ++w) {
      if (workers_[w]->name() == session.home) {
        from = worker_id(static_cast<int64_t>(w), workers_[w]->connection());
      }
    }
  }

  World world_;
  BrokerProcess broker_;
  std::vector<std::unique_ptr<WorkerProcess>> workers_;
  std::vector<std::unique_ptr<ClientProcess>> clients_;
  std::map<std::string, int64_t> named_;  // jobs by tenant
};

void Cluster::draw_job() {
  Rng& rng = world_.rng;
  const Scene& scene = world_.scene;
  auto spec = std::make_shared<JobSpec>();
  // Tenants choose the same names as others do.
  const int64_t c = rng.below(scene.clients);
  ClientProcess& client = *clients_[static_cast<size_t>(c)];
  spec->job_id = "j" + std::to_string(named_[client.tenant()]++);
  if (!rng.chance(200)) {
    const int64_t number = rng.below(scene.sessions);
    spec->session = "s" + std::to_string(number);
    spec->keep_alive_ms = scene.keep_alive_ms[static_cast<size_t>(number)];
    spec->session_max_tokens = scene.max_tokens[static_cast<size_t>(number)];
  }
  spec->kind = InputKind::tokens;
  // Two beginnings shared by all sessions: prefixes to share.
  const int64_t shared = rng.below(8);
  for (int64_t i = 0; i < shared; ++i) spec->tokens.push_back(static_cast<Token>(1 + i % 5));
  const int64_t own = rng.between(1, 6);
  for (int64_t i = 0; i < own; ++i) spec->tokens.push_back(static_cast<Token>(rng.between(1, 900)));
  spec->max_tokens = static_cast<int32_t>(rng.between(1, 24));
  spec->priority = rng.chance(200) ? 1 : 0;
  spec->sampling.seed = rng.next();
  if (rng.chance(scene.deadlines)) spec->deadline_ms = rng.between(50, 4000);
  if (rng.chance(scene.rewinds)) spec->rewind_to = rng.between(0, 12);
  spec->require_resident = rng.chance(scene.residents);
  const int64_t at = rng.below(scene.faulty_ms);
  client.want(spec, at);
  if (rng.chance(scene.cancels)) client.cancel(spec->job_id, at + rng.below(1500));
  // A rewind that its worker has been given, and that ends before its start is known.
  if (spec->rewind_to >= 0 && rng.chance(300)) client.cancel(spec->job_id, at + rng.below(60));
}

void Cluster::draw_faults() {
  Rng& rng = world_.rng;
  const Scene& scene = world_.scene;
  const auto times = [&](int64_t n, const std::function<void()>& fault) {
    for (; n > 0; --n) world_.in(rng.below(scene.faulty_ms), fault);
  };
  times(scene.broker_crashes, [this, &rng] {
    broker_.crash_in_next_turn(static_cast<BrokerProcess::Crash>(rng.between(1, 3)));
  });
  times(scene.worker_crashes, [=, this, &rng] { some_worker().crash(rng.between(10, 1500)); });
  times(scene.hangs, [=, this, &rng] { some_worker().hang(rng.between(50, 2500)); });
  times(scene.reconnects, [=, this] { some_worker().reconnect(); });
  times(scene.client_crashes,
        [this, &rng] { clients_[static_cast<size_t>(rng.below(std::ssize(clients_)))]->crash(); });
  times(scene.leaves, [this] { somebody_leaves(); });
  draw_surroundings();
}

void Cluster::somebody_leaves() {
  Rng& rng = world_.rng;
  WorkerProcess& worker = some_worker();
  if (rng.chance(500)) {
    worker.leave();
  } else {
    const broker::ClientId admin{99};
    broker_.arrives(broker::ClientEvent{admin, Drain{worker.name(), 0}, 0, {}, "", true});
  }
  if (world_.scene.calm) return;
  // While sessions are on their way, giver, receiver or broker may go, or the way itself.
  const auto soon = [&](int64_t per_mille, const std::function<void()>& fault) {
    if (rng.chance(per_mille)) world_.in(rng.below(60), fault);
  };
  soon(400, [this, &rng] { some_worker().crash(rng.between(10, 1500)); });
  soon(300, [this, &rng] {
    broker_.crash_in_next_turn(static_cast<BrokerProcess::Crash>(rng.between(1, 3)));
  });
  soon(200, [this, &rng] { some_worker().hang(rng.between(50, 1500)); });
  soon(200, [this, &rng] { world_.cut(some_worker().name(), rng.between(50, 1500)); });
}

// The network, the disk, the clock, the operator.
void Cluster::draw_surroundings() {
  Rng& rng = world_.rng;
  const auto times = [&](int64_t n, const std::function<void()>& fault) {
    for (; n > 0; --n) world_.in(rng.below(world_.scene.faulty_ms), fault);
  };
  const auto some_link = [this, &rng] {
    const int64_t at = rng.below(std::ssize(workers_) + 1);
    return at < std::ssize(workers_) ? workers_[static_cast<size_t>(at)]->name()
                                     : clients_.back()->link();
  };
  times(world_.scene.partitions, [=, this, &rng] {
    ++world_.verdict.partitions;
    world_.cut(some_link(), rng.between(50, 3000));
  });
  times(world_.scene.slow_links, [=, this, &rng] {
    ++world_.verdict.slow_links;
    world_.slow(some_link(), rng.between(100, 2000));
  });
  times(world_.scene.stalls, [this, &rng] {
    ++world_.verdict.stalls;
    broker_.stall(rng.between(50, 2500));
  });
  times(world_.scene.full_disks, [this, &rng] { broker_.fill_disk(rng.between(50, 1500)); });
  times(world_.scene.wall_jumps,
        [this, &rng] { world_.now.wall += rng.between(-7'200'000, 7'200'000); });
  times(world_.scene.releases, [this, &rng] {
    const std::string session = "s" + std::to_string(rng.below(world_.scene.sessions));
    clients_[static_cast<size_t>(rng.below(std::ssize(clients_)))]->release(session, 0);
  });
  times(world_.scene.reloads, [this, &rng] {
    world_.scene.draw_policies(rng);
    broker_.set_policies();
  });
}

// Clients ask for jobs that only another tenant has.
void Cluster::draw_prying() {
  Rng& rng = world_.rng;
  for (const auto& client : clients_) {
    for (const auto& [tenant, jobs] : named_) {
      const int64_t first = named_[client->tenant()];
      if (tenant == client->tenant() || first >= jobs) continue;
      client->pry("j" + std::to_string(rng.between(first, jobs - 1)),
                  rng.below(world_.scene.faulty_ms));
    }
  }
}

// "The attempt check is dropped": what an old owner says of a job looks as the current one's would.
WorkerMessage Cluster::disguised(const WorkerMessage& m, broker::WorkerId& from) const {
  WorkerMessage changed = m;
  const auto disguise = [&](JobNumber number, Attempt& attempt) {
    const ReferenceStore::Job* job = broker_.disk().find(number);
    if (!job || job->attempt == attempt) return;
    attempt = job->attempt;
    as_home(*broker_.disk().find(job->accepted.session), from);
  };
  if (auto* started = std::get_if<JobStarted>(&changed)) disguise(started->job, started->attempt);
  if (auto* ended = std::get_if<JobEnded>(&changed)) disguise(ended->job, ended->attempt);
  if (auto* step = std::get_if<StepTokens>(&changed); step && step->rows.size() == 1) {
    disguise(step->rows[0].job, step->rows[0].attempt);
  }
  return changed;
}

// "The epoch check is dropped": what was said under an old lease looks as if said under this one.
WorkerMessage Cluster::of_current_lease(const WorkerMessage& m, broker::WorkerId& from) const {
  WorkerMessage changed = m;
  if (auto* dropped = std::get_if<SessionDropped>(&changed)) {
    const ReferenceStore::Session* s = broker_.disk().find(dropped->session);
    if (s && s->epoch != dropped->epoch) {
      dropped->epoch = s->epoch;
      as_home(*s, from);
    }
  }
  if (auto* hello = std::get_if<Register>(&changed)) {
    for (HeldSession& held : hello->sessions) {
      if (const auto* s = broker_.disk().find(held.session)) held.epoch = s->epoch;
    }
  }
  return changed;
}

void Cluster::from_worker(int64_t w, WorkerMessage m) {
  const WorkerProcess& worker = *workers_[static_cast<size_t>(w)];
  auto origin = std::make_shared<Origin>(Origin{worker.name(), worker.incarnation(), std::move(m)});
  world_.carry(worker.name(), [this, w, origin, connection = worker.connection(),
                               life = broker_.life()] {
    if (life != broker_.life() && world_.rng.chance(500)) return;  // lost with the connection
    broker::WorkerId from = worker_id(w, connection);
    WorkerMessage message = origin->message;
    if (world_.plant == Plant::attempt_unchecked) message = disguised(message, from);
    if (world_.plant == Plant::epoch_unchecked) message = of_current_lease(message, from);
    if (world_.plant == Plant::credit_inflated) {
      if (auto* beat = std::get_if<Heartbeat>(&message)) beat->room.slots *= 2;
      if (auto* hello = std::get_if<Register>(&message)) hello->room.slots *= 2;
    }
    if (world_.plant == Plant::kv_credit_inflated) {
      const auto inflate = [](Room& room) { room.free_kv_tokens += room.total_kv_tokens; };
      if (auto* beat = std::get_if<Heartbeat>(&message)) inflate(beat->room);
      if (auto* hello = std::get_if<Register>(&message)) inflate(hello->room);
    }
    if (world_.tracing) {
      world_.trace("        broker <- ", origin->worker, ": ", describe(message));
    }
    broker_.arrives(broker::WorkerEvent{from, std::move(message)}, origin);
  });
}

// Workers know each other by name; a restarted one has the same.
void Cluster::between_workers(const worker::Command& c, const std::string& from) {
  if (const auto* to = std::get_if<worker::ToGiver>(&c)) {
    if (world_.tracing) {
      world_.trace("        ", from, " -> ", to->peer, ": ", describe(to->message));
    }
    world_.carry(from, [this, from, to = *to] {
      if (WorkerProcess* w = named(to.peer)) w->arrives(worker::FromReceiver{from, to.message});
    });
    return;
  }
  const auto* open = std::get_if<worker::ToReceiver>(&c);
  const auto* send = std::get_if<worker::SendPage>(&c);
  const std::string receiver = open ? open->endpoint : send->endpoint;
  GiverMessage m = open ? open->message : GiverMessage(send->page);
  if (world_.tracing) world_.trace("        ", from, " -> ", receiver, ": ", describe(m));
  if (auto* page = std::get_if<TransferPage>(&m)) {
    ++world_.verdict.pages_moved;
    if (world_.plant == Plant::pages_lost) return;
    page->damaged = world_.faulty() && world_.rng.chance(world_.scene.damaged_pages);
    if (world_.plant == Plant::page_altered || page->damaged) {
      auto altered = std::make_shared<std::vector<std::byte>>(*page->bytes);
      altered->front() ^= std::byte{1};
      page->bytes = std::move(altered);
    }
  }
  world_.carry(from, [this, from, receiver, m = std::move(m)] {
    if (WorkerProcess* w = named(receiver)) w->arrives(worker::FromGiver{from, m});
  });
}

void Cluster::to_worker(broker::WorkerId id, BrokerToWorker m) {
  const int64_t w = static_cast<int64_t>(raw(id) % 100);
  const auto reaches = [this, w, id, life = broker_.life()] {
    const WorkerProcess& worker = *workers_[static_cast<size_t>(w)];
    return worker.up() && raw(id) / 100 % 10'000 == worker.connection() &&
           raw(id) / 1'000'000 == life;
  };
  if (!reaches()) {
    if (world_.rng.chance(500)) {
      world_.in(1, [this, id] { broker_.arrives(broker::WorkerUnreachable{id}); });
    }
    return;
  }
  const WorkerProcess& addressee = *workers_[static_cast<size_t>(w)];
  if (auto* dispatch = std::get_if<Dispatch>(&m)) {
    const bool moved = dispatch->home_reason == Reason::drained;
    if (world_.plant == Plant::moved_unserved && moved) return;
    if (world_.plant == Plant::prefixes_shared) dispatch->tenant.clear();
    const size_t other = (static_cast<size_t>(w) + 1) % workers_.size();
    if (world_.plant == Plant::dispatch_doubled && workers_[other]->up()) {
      workers_[other]->arrives(m);
    }
  }
  world_.carry(addressee.name(), [this, w, reaches, m = std::move(m)] {
    if (!reaches()) return;
    WorkerProcess& worker = *workers_[static_cast<size_t>(w)];
    if (world_.tracing) world_.trace("                ", worker.name(), " <- ", describe(m));
    worker.arrives(m);
  });
}

// When all is healed each session is asked once more, whatever has become of its home.
void Cluster::ask_last() {
  for (const auto& [number, session] : broker_.disk().sessions()) {
    if (session.closed || session.name.empty()) continue;
    auto spec = std::make_shared<JobSpec>();
    spec->job_id = kLast + session.name;
    spec->session = session.name;
    spec->kind = InputKind::tokens;
    spec->tokens = {2, 3};
    spec->max_tokens = 3;
    spec->sampling.seed = world_.rng.next();
    for (const auto& client : clients_) {
      if (client->tenant() != session.tenant) continue;
      client->want(spec, 0);
      break;
    }
  }
}

void Cluster::judge_last() const {
  for (const auto& [number, job] : broker_.disk().jobs()) {
    const bool last = job.accepted.spec->job_id.starts_with(kLast);
    if (!last || job.state == JobState::finished) continue;
    const bool full = job.end && job.end->code == ErrorCode::too_long;
    if (!full) throw Contradiction("nobody serves session " + job.accepted.spec->session);
  }
}

// Everyone has an answer. A moment later nobody holds on to anything.
void Cluster::settle() {
  const int64_t until = world_.ms() + 5000;
  while (world_.ms() < until) {
    if (!world_.run_next()) throw Contradiction("nothing is left to happen");
  }
  if (!broker_.up()) throw Contradiction("the broker is down after healing");
  const broker::Core::Gauges g = broker_.gauges();
  if (g.queued + g.dispatched + g.running + g.sessions_queued + g.sessions_running != 0) {
    throw Contradiction("the broker counts jobs when all have ended");
  }
  if (g.workers_ready != world_.scene.workers) throw Contradiction("a worker has not come back");
  for (const auto& worker : workers_) {
    if (!worker->up()) throw Contradiction(worker->name() + " is down after healing");
    if (worker->gauges().jobs != 0) throw Contradiction(worker->name() + " holds on to a job");
  }
  for (const auto& [number, job] : broker_.disk().jobs()) {
    if (!job.end) throw Contradiction("a job that nobody waits for has not ended");
  }
}

}  // namespace

Verdict simulate(uint64_t seed, Plant plant, bool trace) {
  return std::make_unique<Cluster>(seed, plant, trace)->run();
}

}  // namespace limpet::sim
