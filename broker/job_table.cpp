#include "broker/job_table.h"

#include <stdexcept>

namespace limpet::broker {

namespace {

// A tenant's name has no NUL: see allow_list.h.
std::string owned_key(const OwnedName& n) {
  std::string key;
  key.reserve(n.tenant.size() + 1 + n.name.size());
  key.append(n.tenant).append(1, '\0').append(n.name);
  return key;
}

}  // namespace

size_t body_bytes(const JobSpec& spec) {
  size_t n = sizeof(JobSpec) + spec.job_id.size() + spec.session.size() + spec.text.size() +
             spec.tokens.size() * sizeof(Token) + spec.stop_tokens.size() * sizeof(Token);
  for (const ChatMessage& m : spec.messages) n += sizeof m + m.role.size() + m.content.size();
  for (const std::string& s : spec.stop) n += sizeof s + s.size();
  return n;
}

Job& JobTable::add(const JobAccepted& accepted, Session& session) {
  if (ids_.contains({session.tenant->name, accepted.spec->job_id}))
    throw std::logic_error("job accepted twice: id");
  auto [it, fresh] = jobs_.try_emplace(raw(accepted.job));
  if (!fresh) throw std::logic_error("job accepted twice: number");
  Job& job = it->second;
  job.number = accepted.job;
  job.session = &session;
  job.spec = accepted.spec;
  job.body_hash = accepted.body_hash;
  job.seed = accepted.seed;
  job.accepted_at = accepted.accepted_at;
  job.deadline_at = accepted.deadline_at;
  job.bytes = body_bytes(*job.spec);
  ids_.emplace(OwnedName{session.tenant->name, job.spec->job_id}, &job);
  SessionTable::append(session, job);
  count(job, 1);
  return job;
}

void JobTable::count(const Job& job, int64_t n) {
  Tenant& tenant = *job.session->tenant;
  (job.in_flight() ? tenant.in_flight : tenant.queued) += n;
  switch (job.state) {
    case JobState::queued:
      counts_.queued += n;
      counts_.queued_bytes += n * static_cast<int64_t>(job.bytes);
      break;
    case JobState::dispatched:
      counts_.dispatched += n;
      break;
    case JobState::running:
      counts_.running += n;
      break;
    default:
      throw std::logic_error("an ended job in the job table");
  }
}

void JobTable::set_state(Job& job, JobState state) {
  count(job, -1);
  job.state = state;
  count(job, 1);
}

void JobTable::end(Job& job, JobState state) {
  count(job, -1);
  SessionTable::remove(*job.session, job);
  const OwnedName id{job.tenant(), job.id()};
  ids_.erase(id);
  ended_.insert_or_assign(owned_key(id), Ended{job.number, job.body_hash, state});
  jobs_.erase(raw(job.number));
}

Job* JobTable::find(JobNumber number) {
  const auto it = jobs_.find(raw(number));
  return it == jobs_.end() ? nullptr : &it->second;
}

Job* JobTable::find(const OwnedName& id) {
  const auto it = ids_.find(id);
  return it == ids_.end() ? nullptr : it->second;
}

Job& JobTable::at(JobNumber number) {
  Job* job = find(number);
  if (!job) throw std::logic_error("no such job: " + std::to_string(raw(number)));
  return *job;
}

const JobTable::Ended* JobTable::find_ended(const OwnedName& id) const {
  const auto it = ended_.find(owned_key(id));
  return it == ended_.end() ? nullptr : &it->second;
}

}  // namespace limpet::broker
