#include "broker/session_table.h"

#include <stdexcept>

#include "broker/job_table.h"

namespace limpet::broker {

Session& SessionTable::open(SessionNumber number, const std::string& name,
                            const std::string& tenant) {
  if (!name.empty() && names_.contains({tenant, name}))
    throw std::logic_error("session opened twice: name");
  auto [it, fresh] = sessions_.try_emplace(raw(number));
  if (!fresh) throw std::logic_error("session opened twice: number");
  Session& session = it->second;
  session.number = number;
  session.name = name;
  session.tenant = tenant;
  if (!name.empty()) names_.emplace(OwnedName{session.tenant, session.name}, &session);
  return session;
}

void SessionTable::close(SessionNumber number) {
  Session& session = at(number);
  if (session.first) throw std::logic_error("session closed with jobs in its lane");
  if (!session.ephemeral()) names_.erase({session.tenant, session.name});
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

}  // namespace limpet::broker
