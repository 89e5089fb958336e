#include "tests/sim/client_process.h"

#include <algorithm>

namespace limpet::sim {

void ClientProcess::want(std::shared_ptr<const JobSpec> spec, int64_t in_ms) {
  const std::string id = spec->job_id;
  world_.priorities[{tenant_, id}] = spec->priority;
  if (spec->keep_alive_ms >= 0) {
    world_.keep_alives[{tenant_, spec->session}] = spec->keep_alive_ms;
  }
  if (spec->session_max_tokens > 0) {
    world_.caps[{tenant_, spec->session}] = spec->session_max_tokens;
  }
  wants_[id].spec = std::move(spec);
  ++open_;
  world_.in(in_ms, [this, id] {
    ask(wants_[id]);
    look_again(id);
  });
}

void ClientProcess::cancel(const std::string& job_id, int64_t in_ms) {
  wants_[job_id].cancelled = true;
  world_.in(in_ms, [this, job_id] { send_(Cancel{job_id}); });
}

void ClientProcess::pry(const std::string& job_id, int64_t in_ms) {
  world_.in(in_ms, [this, job_id] {
    send_(Attach{job_id, 0});
    send_(List{world_.rng.chance(500) ? Listing::jobs : Listing::sessions, 100});
  });
}

void ClientProcess::listed(const Listed& m) const {
  for (const JobInfo& j : m.jobs) {
    if (j.tenant != tenant_) throw Contradiction("a tenant is listed another one's job");
  }
  for (const SessionInfo& s : m.sessions) {
    if (s.tenant != tenant_) throw Contradiction("a tenant is listed another one's session");
  }
}

void ClientProcess::release(const std::string& session, int64_t in_ms) {
  world_.in(in_ms, [this, session] { send_(Release{session}); });
}

// What has been acknowledged is only attached to: it must be there.
void ClientProcess::ask(Want& want) {
  want.due = world_.ms() + world_.rng.between(200, 1200);
  if (want.acknowledged && world_.rng.chance(700)) {
    send_(Attach{want.spec->job_id, want.next});
  } else {
    send_(Submit{want.spec, true, want.next});
  }
}

void ClientProcess::look_again(const std::string& job_id) {
  world_.in(100, [this, job_id] {
    Want& want = wants_[job_id];
    if (want.done) return;
    if (world_.ms() >= want.due) ask(want);
    look_again(job_id);
  });
}

void ClientProcess::crash() {
  ++connection_;
  for (auto& [id, want] : wants_) want.next = 0;
  gone_();
}

void ClientProcess::arrives(const BrokerToClient& message) {
  const auto find = [&](const std::string& id) -> Want& {
    const auto it = wants_.find(id);
    if (it == wants_.end()) throw Contradiction("a tenant is told of another one's job " + id);
    return it->second;
  };
  if (const auto* m = std::get_if<Accepted>(&message)) {
    find(m->job_id).acknowledged = true;
  } else if (const auto* m = std::get_if<Refused>(&message)) {
    if (wants_.contains(m->job_id)) refused(wants_[m->job_id], *m);
  } else if (const auto* m = std::get_if<Tokens>(&message)) {
    show(find(m->job_id), *m);
  } else if (const auto* m = std::get_if<Finished>(&message)) {
    outcome(find(m->job_id), "finished " + std::string(limpet::name(m->reason)),
            m->usage.output_tokens);
  } else if (const auto* m = std::get_if<Failed>(&message)) {
    outcome(find(m->job_id), "failed " + std::string(limpet::name(m->code)), -1);
  } else if (const auto* m = std::get_if<Listed>(&message)) {
    listed(*m);
  }
}

void ClientProcess::refused(Want& want, const Refused& m) {
  // Asked again later; it may have crossed with an Accepted.
  if (m.code == ErrorCode::busy || m.code == ErrorCode::storage) return;
  if (m.code == ErrorCode::not_found && (want.cancelled || !want.acknowledged)) return;
  throw Contradiction(want.spec->job_id + (want.acknowledged ? ": acknowledged" : "") +
                      ": refused as " + std::string(limpet::name(m.code)));
}

void ClientProcess::show(Want& want, const Tokens& m) {
  want.due = world_.ms() + world_.rng.between(200, 1200);
  for (size_t i = 0; i < m.ids.size(); ++i) {
    const size_t index = static_cast<size_t>(m.first_index) + i;
    if (index < want.shown.size() && want.shown[index] != m.ids[i]) {
      throw Contradiction(want.spec->job_id + ": token " + std::to_string(index) + " is shown as " +
                          std::to_string(m.ids[i]) + " after " + std::to_string(want.shown[index]));
    }
    if (index == want.shown.size()) want.shown.push_back(m.ids[i]);
  }
  const int64_t end = m.first_index + std::ssize(m.ids);
  if (m.first_index <= want.next) {
    want.next = std::max(want.next, end);
  } else {
    want.due = world_.ms();  // a piece is missing: ask for it
  }
}

void ClientProcess::outcome(Want& want, const std::string& what, int64_t tokens) {
  if (!want.outcome.empty() && want.outcome != what) {
    throw Contradiction(want.spec->job_id + ": " + what + " after it was " + want.outcome);
  }
  if (tokens >= 0 && std::ssize(want.shown) > tokens) {
    throw Contradiction(want.spec->job_id + ": shown more tokens than it has");
  }
  want.outcome = what;
  if (tokens > want.next) {
    want.due = world_.ms();
    return;
  }
  if (!want.done) --open_;
  want.done = true;
}

std::string ClientProcess::first_open() const {
  for (const auto& [id, want] : wants_)
    if (!want.done) return id;
  return "";
}

}  // namespace limpet::sim
