#include "broker/worker_table.h"

#include <algorithm>

namespace limpet::broker {

Worker& WorkerTable::slot(const std::string& name) {
  if (const auto it = names_.find(name); it != names_.end()) return *slots_[it->second];
  uint32_t slot = static_cast<uint32_t>(slots_.size());
  if (free_.empty()) {
    slots_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  slots_[slot] = std::make_unique<Worker>();
  slots_[slot]->slot = slot;
  slots_[slot]->name = name;
  names_.emplace(name, slot);
  return *slots_[slot];
}

Worker* WorkerTable::find(WorkerId connection) {
  const auto it = connections_.find(raw(connection));
  return it == connections_.end() ? nullptr : slots_[it->second].get();
}

Worker* WorkerTable::find(std::string_view name) {
  const auto it = names_.find(std::string(name));
  return it == names_.end() ? nullptr : slots_[it->second].get();
}

void WorkerTable::connect(Worker& worker, WorkerId connection) {
  if (worker.state == WorkerState::ready) {
    connections_.erase(raw(worker.connection));
  } else {
    ++models_[worker.model_fingerprint];
  }
  worker.connection = connection;
  worker.state = WorkerState::ready;
  connections_[raw(connection)] = worker.slot;
  rank(worker);
}

void WorkerTable::disconnect(Worker& worker) {
  if (worker.state == WorkerState::ready) {
    connections_.erase(raw(worker.connection));
    if (--models_[worker.model_fingerprint] == 0) models_.erase(worker.model_fingerprint);
  }
  worker.state = WorkerState::absent;
  worker.in_flight.clear();
  recount(worker);
}

void WorkerTable::forget_if_unused(uint32_t slot) {
  if (!slots_[slot]) return;
  const Worker& worker = *slots_[slot];
  if (worker.state != WorkerState::absent || worker.homes > 0 || !worker.ready.empty() ||
      !worker.in_flight.empty()) {
    return;
  }
  names_.erase(worker.name);
  slots_[slot].reset();
  free_.push_back(slot);
}

void WorkerTable::sent(Worker& worker, JobAttempt attempt, const InFlight& entry) {
  worker.in_flight[attempt] = entry;
  ++worker.unlisted;
  worker.promised += entry.promised;
  rank(worker);
}

void WorkerTable::over(Worker& worker, JobAttempt attempt) {
  const auto it = worker.in_flight.find(attempt);
  if (it == worker.in_flight.end()) return;
  if (it->second.allowed_for()) {
    ++worker.freed;
    if (it->second.started) worker.freed_kv += it->second.promised;
  }
  forgotten(worker, attempt);
}

void WorkerTable::promise(Worker& worker, JobAttempt attempt, int64_t kv_tokens) {
  const auto it = worker.in_flight.find(attempt);
  if (it == worker.in_flight.end()) return;
  if (!it->second.kv_allowed_for()) worker.promised += kv_tokens - it->second.promised;
  it->second.promised = kv_tokens;
  rank(worker);
}

void WorkerTable::forgotten(Worker& worker, JobAttempt attempt) {
  const auto it = worker.in_flight.find(attempt);
  if (it == worker.in_flight.end()) return;
  if (!it->second.allowed_for()) --worker.unlisted;
  if (!it->second.kv_allowed_for()) worker.promised -= it->second.promised;
  worker.in_flight.erase(it);
  rank(worker);
}

void WorkerTable::recount(Worker& worker) {
  worker.unlisted = worker.freed = worker.promised = worker.freed_kv = 0;
  worker.places = worker.room.slots;
  for (const auto& [attempt, entry] : worker.in_flight) {
    worker.unlisted += !entry.allowed_for();
    worker.places += entry.allowed_for();
    if (!entry.kv_allowed_for()) worker.promised += entry.promised;
  }
  rank(worker);
}

void WorkerTable::rank(Worker& worker) {
  const bool takes = worker.credit() > 0 && !worker.held;
  const bool open_now = takes && open(worker);
  open_ += open_now - worker.ranked_open;
  worker.ranked_open = open_now;
  const Worker::Rank now{worker.promised - worker.room.free_kv_tokens, worker.in_flight.size(),
                         worker.homes, worker.slot};
  const Worker::Credit most{worker.in_flight.empty() ? INT64_MIN : -worker.kv_credit(),
                            worker.slot};
  if (takes == worker.ranked && (!takes || (now == worker.rank && most == worker.most))) return;
  if (worker.ranked) ranks_.erase(worker.rank), mosts_.erase(worker.most);
  worker.ranked = takes;
  worker.rank = now;
  worker.most = most;
  if (takes) ranks_.insert(now), mosts_.insert(most);
}

bool WorkerTable::alone(uint32_t slot) const {
  return std::ranges::none_of(connections_, [&](const auto& c) {
    return c.second != slot && !slots_[c.second]->leaving;
  });
}

Worker* WorkerTable::freest(uint32_t avoid, uint64_t model, bool only_open) {
  const bool prefer = model != 0 && models_.size() > 1 && models_.contains(model);
  Worker* first = nullptr;
  for (const Worker::Rank& rank : ranks_) {
    Worker* worker = slots_[std::get<3>(rank)].get();
    if (worker->slot == avoid || (only_open && !open(*worker))) continue;
    if (!prefer || worker->model_fingerprint == model) return worker;
    if (!first) first = worker;
  }
  if (first || ranks_.empty() || !alone(avoid)) return first;
  Worker* lone = slots_[std::get<3>(*ranks_.begin())].get();
  return only_open && !open(*lone) ? nullptr : lone;
}

Worker* WorkerTable::idle(uint64_t model) {
  for (const auto& [credit, slot] : mosts_) {  // those without jobs come first
    Worker* worker = slots_[slot].get();
    if (!worker->in_flight.empty()) return nullptr;
    if (worker->idle() && (model == 0 || worker->model_fingerprint == model)) return worker;
  }
  return nullptr;
}

Worker* WorkerTable::another(uint32_t but) {
  Worker* best = nullptr;
  for (const auto& [connection, slot] : connections_) {
    Worker* worker = slots_[slot].get();
    if (slot == but || worker->leaving) continue;
    const auto key = [](const Worker* w) { return std::pair(w->in_flight.size(), w->slot); };
    if (!best || key(worker) < key(best)) best = worker;
  }
  return best;
}

Worker* WorkerTable::roomiest(uint32_t avoid, bool only_open) {
  for (const auto& [credit, slot] : mosts_) {
    if (only_open && !open(*slots_[slot])) continue;
    if (slot != avoid || alone(avoid)) return slots_[slot].get();
  }
  return nullptr;
}

}  // namespace limpet::broker
