#include "broker/session_table.h"

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "broker/job_table.h"

namespace limpet::broker {

Session& SessionTable::open(SessionNumber number, const std::string& name,
                            Tenant& tenant) {
  if (!name.empty() && names_.contains({tenant.name, name}))
    throw std::logic_error("session opened twice: name");
  auto [it, fresh] = sessions_.try_emplace(raw(number));
  if (!fresh) throw std::logic_error("session opened twice: number");
  Session& session = it->second;
  session.number = number;
  session.name = name;
  session.tenant = &tenant;
  if (!name.empty()) names_.emplace(OwnedName{tenant.name, session.name}, &session);
  return session;
}

void SessionTable::close(SessionNumber number) {
  Session& session = at(number);
  if (session.first) throw std::logic_error("session closed with jobs in its lane");
  rouse(session);
  begin_use(session);
  if (!session.ephemeral()) names_.erase({session.tenant->name, session.name});
  sessions_.erase(raw(number));
}

Session* SessionTable::find(SessionNumber number) {
  const auto it = sessions_.find(raw(number));
  return it == sessions_.end() ? nullptr : &it->second;
}

Session* SessionTable::find(const OwnedName& name) {
  const auto it = names_.find(name);
  return it == names_.end() ? nullptr : it->second;
}

Session& SessionTable::at(SessionNumber number) {
  Session* session = find(number);
  if (!session) throw std::logic_error("no such session: " + std::to_string(raw(number)));
  return *session;
}

void SessionTable::append(Session& session, Job& job) {
  job.lane_before = session.last;
  job.lane_after = nullptr;
  (session.last ? session.last->lane_after : session.first) = &job;
  session.last = &job;
  ++session.jobs;
}

void SessionTable::remove(Session& session, Job& job) {
  (job.lane_before ? job.lane_before->lane_after : session.first) = job.lane_after;
  (job.lane_after ? job.lane_after->lane_before : session.last) = job.lane_before;
  job.lane_before = job.lane_after = nullptr;
  --session.jobs;
}

void SessionTable::rest(Session& session) {
  if (session.rests || session.home == kNoWorker) return;
  Tenant& tenant = *session.tenant;
  session.rests = true;
  session.idle_before = tenant.last_idle;
  session.idle_after = nullptr;
  (tenant.last_idle ? tenant.last_idle->idle_after : tenant.longest_idle) = &session;
  tenant.last_idle = &session;
  tenant.idle_tokens += session.tokens;
}

void SessionTable::rouse(Session& session) {
  if (!session.rests) return;
  Tenant& tenant = *session.tenant;
  session.rests = false;
  (session.idle_before ? session.idle_before->idle_after : tenant.longest_idle) =
      session.idle_after;
  (session.idle_after ? session.idle_after->idle_before : tenant.last_idle) = session.idle_before;
  session.idle_before = session.idle_after = nullptr;
  tenant.idle_tokens -= session.tokens;
}

void SessionTable::end_use(Session& session) {
  if (session.unused || session.ephemeral()) return;
  session.unused = true;
  session.unused_before = last_unused_;
  session.unused_after = nullptr;
  (last_unused_ ? last_unused_->unused_after : longest_unused_) = &session;
  last_unused_ = &session;
}

void SessionTable::begin_use(Session& session) {
  if (!session.unused) return;
  session.unused = false;
  (session.unused_before ? session.unused_before->unused_after : longest_unused_) =
      session.unused_after;
  (session.unused_after ? session.unused_after->unused_before : last_unused_) =
      session.unused_before;
  session.unused_before = session.unused_after = nullptr;
}

void SessionTable::sort_unused() {
  std::vector<Session*> all;
  for (Session* s = longest_unused_; s; s = s->unused_after) all.push_back(s);
  std::ranges::sort(all, {}, [](const Session* s) { return std::pair(s->used_at, s->number); });
  for (Session* s : all) begin_use(*s);
  for (Session* s : all) end_use(*s);
}

}  // namespace limpet::broker
