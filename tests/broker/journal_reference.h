// A world of sessions and jobs that makes valid journal entries at random, and keeps by the
// plainest means what a store must remember of them. Written without a look at the store.
#pragma once
#include <map>
#include <random>
#include <sstream>

#include "broker/event.h"
#include "broker/store.h"

namespace limpet::broker {

struct ReferenceJob {
  std::string id, tenant;
  uint64_t session = 0, hash = 0;
  JobState state = JobState::queued;
  uint32_t attempt = 0;
  int32_t failures = 0;
  bool started = false;
  std::string worker;
  int64_t base = 0;
  std::vector<Token> prompt;
  std::vector<Token> cut;  // by its rewind; back when it fails
  bool has_prompt = false;
  std::vector<OutputRow> rows;
  std::string tail_text;
  bool replaced = false;  // it had failed, and is done again under its id
  bool ended() const { return is_terminal(state); }
  int64_t output() const {
    if (rows.empty()) return 0;
    return rows.back().first_index + static_cast<int64_t>(rows.back().ids.size());
  }
};
struct ReferenceSession {
  std::string name, tenant, home;
  uint64_t epoch = 0, model = 0;
  Reason reason = Reason::none;  // why its next start at home is not resident
  int64_t keep_alive_ms = -1, max_tokens = 0;
  std::vector<Token> transcript;
  std::vector<uint64_t> lane;  // jobs that have not ended; only the first may start
};

class ReferenceWorld {
 public:
  // With tenants: three, who choose the same names and ids. The newest: sessions have terms, and
  // some failed jobs are done again, which version 5 of the store has brought.
  explicit ReferenceWorld(uint64_t seed, bool tenants = true, bool newest = true)
      : tenants_(tenants), newest_(newest), rng_(seed) {}

  std::map<uint64_t, ReferenceJob> jobs;
  std::map<uint64_t, ReferenceSession> sessions;
  uint64_t next_job = 1, next_session = 1;

  std::vector<JournalEntry> make_commit() {
    std::vector<JournalEntry> out;
    const int n = 1 + static_cast<int>(rng_() % 6);
    while (static_cast<int>(out.size()) < n) make_one(out);
    return out;
  }

  uint64_t random(uint64_t below) { return rng_() % below; }
  std::string tenant_of(uint64_t session) const {
    return tenants_ ? std::string(1, static_cast<char>('a' + session % 3)) : std::string();
  }

 private:
  bool tenants_, newest_;
  std::mt19937_64 rng_;
  std::map<std::string, uint64_t> last_id_;  // of each tenant

  std::vector<Token> tokens(uint64_t most) {
    std::vector<Token> out(random(most + 1));
    for (Token& t : out) t = static_cast<Token>(random(50000));
    return out;
  }

  void open_session(std::vector<JournalEntry>& out) {
    const uint64_t number = next_session++;
    const std::string name =
        random(3) == 0 ? "" : "s" + std::to_string(tenants_ ? number / 3 : number);
    sessions[number].name = name;
    sessions[number].tenant = tenant_of(number);
    out.push_back(SessionOpened{SessionNumber(number), name, sessions[number].tenant});
    if (!newest_ || random(2) != 0) return;
    sessions[number].keep_alive_ms = static_cast<int64_t>(random(1000));
    sessions[number].max_tokens = static_cast<int64_t>(random(1 << 20));
    out.push_back(SessionTerms{SessionNumber(number), sessions[number].keep_alive_ms,
                               sessions[number].max_tokens});
  }

  void accept(std::vector<JournalEntry>& out) {
    std::vector<uint64_t> idle;
    for (auto& [number, s] : sessions) {
      if (s.lane.size() < 3) idle.push_back(number);
    }
    if (idle.empty()) return open_session(out);
    const uint64_t session = idle[random(idle.size())];
    const uint64_t number = next_job++;
    auto spec = std::make_shared<JobSpec>();
    const std::string& tenant = sessions[session].tenant;
    const uint64_t id = ++last_id_[tenant];
    spec->job_id = "job-" + std::to_string(id * 7919 % 10007) + "-" + std::to_string(id);
    JobNumber replaces{};
    for (auto& [old, failed] : jobs) {  // the first that has failed is done again now and then
      if (failed.state != JobState::failed || failed.replaced || failed.tenant != tenant) continue;
      if (!newest_ || random(4) != 0) break;
      failed.replaced = true;
      replaces = JobNumber(old);
      spec->job_id = failed.id;
      break;
    }
    spec->session = sessions[session].name;
    spec->kind = InputKind::text;
    spec->text = std::string(random(300), 'x');
    ReferenceJob& job = jobs[number];
    job.id = spec->job_id;
    job.tenant = tenant;
    job.session = session;
    job.hash = number * 31;
    sessions[session].lane.push_back(number);
    out.push_back(JobAccepted{JobNumber(number), SessionNumber(session), spec, job.hash, number,
                              1000 + static_cast<WallMs>(number), 0, replaces});
  }

  void end(std::vector<JournalEntry>& out, uint64_t number, ReferenceJob& job) {
    static constexpr JobState kStates[] = {JobState::finished, JobState::failed,
                                           JobState::cancelled, JobState::expired};
    job.state = kStates[random(4)];
    job.tail_text = random(2) ? "tail" : "";
    ReferenceSession& s = sessions[job.session];
    if (job.state == JobState::failed && job.has_prompt) {
      s.transcript.resize(job.base);
      s.transcript.insert(s.transcript.end(), job.cut.begin(), job.cut.end());
    }
    std::erase(s.lane, number);
    JobEndedEntry e;
    e.job = JobNumber(number);
    e.state = job.state;
    e.tail_text = job.tail_text;
    e.session_tokens = static_cast<int64_t>(s.transcript.size());
    out.push_back(e);
    if (s.name.empty() && s.lane.empty()) {
      out.push_back(SessionClosed{SessionNumber(job.session)});
      sessions.erase(job.session);
    }
  }

  void start(std::vector<JournalEntry>& out, uint64_t number, ReferenceJob& job) {
    ReferenceSession& s = sessions[job.session];
    StartedEntry e;
    e.job = JobNumber(number);
    e.attempt = Attempt(job.attempt);
    e.worker = job.worker = "w" + std::to_string(random(4));
    job.started = true;
    job.state = JobState::running;
    s.reason = Reason::none;
    if (!job.has_prompt) {
      job.has_prompt = e.has_prompt = true;
      job.base = static_cast<int64_t>(s.transcript.size());
      if (random(4) == 0) job.base = static_cast<int64_t>(random(s.transcript.size() + 1));
      job.cut.assign(s.transcript.begin() + job.base, s.transcript.end());
      s.transcript.resize(static_cast<size_t>(job.base));
      job.prompt = e.prompt = tokens(40);
      s.transcript.insert(s.transcript.end(), job.prompt.begin(), job.prompt.end());
    }
    e.base_tokens = job.base;
    out.push_back(e);
  }

  void append(std::vector<JournalEntry>& out) {
    TokensAppended e;
    for (auto& [number, job] : jobs) {
      if (job.state != JobState::running || random(2)) continue;
      OutputRow row;
      row.job = JobNumber(number);
      row.first_index = job.output();
      row.ids = tokens(3);
      if (row.ids.empty()) row.ids.push_back(7);
      row.text = std::string(random(4), static_cast<char>('a' + random(26)));
      if (number % 5 == 0) {
        for (Token t : row.ids) row.logprobs.push_back({{t, -0.5f}, {1, -1.5f}});
      }
      ReferenceSession& s = sessions[job.session];
      s.transcript.insert(s.transcript.end(), row.ids.begin(), row.ids.end());
      job.rows.push_back(row);
      e.rows.push_back(std::move(row));
    }
    if (!e.rows.empty()) out.push_back(std::move(e));
  }

  void step_job(std::vector<JournalEntry>& out) {
    std::vector<uint64_t> live;
    for (auto& [number, job] : jobs) {
      if (!job.ended()) live.push_back(number);
    }
    if (live.empty()) return;
    const uint64_t number = live[random(live.size())];
    ReferenceJob& job = jobs[number];
    const uint64_t what = random(12);
    if (what == 0) return end(out, number, job);
    if (sessions[job.session].lane.front() != number) return;
    if (job.state == JobState::queued) {
      out.push_back(JobDispatched{JobNumber(number), Attempt(++job.attempt)});
      job.state = JobState::dispatched;
    } else if (what == 1) {
      const bool failed = random(2) == 0;
      job.failures += failed;
      out.push_back(JobRequeued{JobNumber(number), "worker lost", failed});
      job.state = JobState::queued;
    } else if (job.state == JobState::dispatched) {
      start(out, number, job);
    } else if (what == 2) {
      end(out, number, job);
    }
  }

  void make_one(std::vector<JournalEntry>& out) {
    const uint64_t what = random(20);
    if (what == 0) {
      open_session(out);
    } else if (what < 4) {
      accept(out);
    } else if (what == 4 && !sessions.empty()) {
      auto& [number, s] = *std::next(sessions.begin(), static_cast<long>(random(sessions.size())));
      s.home = "w" + std::to_string(random(4));
      s.model = random(3);
      s.reason = Reason::drained;
      out.push_back(
          HomeSet{SessionNumber(number), Epoch(++s.epoch), s.home, 9, Reason::drained, s.model});
    } else if (what == 5 && !sessions.empty()) {
      auto it = std::next(sessions.begin(), static_cast<long>(random(sessions.size())));
      if (!it->second.lane.empty()) return;
      if (random(4) != 0 || sessions.size() <= 3) return;
      out.push_back(SessionClosed{SessionNumber(it->first)});
      sessions.erase(it);
    } else if (what < 14) {
      step_job(out);
    } else {
      append(out);
    }
  }
};

// Everything that the world, or a store, can tell, as one text to compare.
inline std::string describe(const ReferenceWorld& w) {
  std::ostringstream out;
  for (const auto& [number, s] : w.sessions) {
    out << "session " << number << " " << s.tenant << "/" << s.name << " " << s.home << " "
        << s.epoch << " " << name(s.reason) << " "
        << s.model << " " << s.keep_alive_ms << "/" << s.max_tokens << " :";
    for (Token t : s.transcript) out << " " << t;
    out << "\n";
  }
  for (const auto& [number, j] : w.jobs) {
    if (j.replaced) continue;
    out << "job " << number << " " << j.id << " " << j.session << " " << j.hash << " "
        << name(j.state) << " " << j.attempt << " " << (j.ended() ? 0 : j.failures) << " "
        << (j.ended() || !j.has_prompt ? 0 : j.base + std::ssize(j.cut)) << " "
        << (j.started ? j.worker : "-") << " "
        << j.output() << " " << (j.ended() ? j.tail_text : "") << " :";
    std::string text;
    for (const OutputRow& row : j.rows) {
      for (Token t : row.ids) out << " " << t;
      text += row.text;
      if (!row.logprobs.empty()) out << " lp" << row.logprobs[0][0].token;
    }
    out << " " << text << "\n";
  }
  return out.str();
}

inline std::string describe(Store& store, const ReferenceWorld& w) {
  std::ostringstream out;
  std::map<uint64_t, SessionSnapshot> sessions;
  std::map<uint64_t, JobSnapshot> live;
  store.snapshot([&](const JournalEntry& e) {
    if (auto* s = std::get_if<SessionSnapshot>(&e)) sessions[raw(s->session)] = *s;
    if (auto* j = std::get_if<JobSnapshot>(&e)) live[raw(j->accepted.job)] = *j;
  });
  for (const auto& [number, s] : sessions) {
    out << "session " << number << " " << s.tenant << "/" << s.name << " " << s.home << " "
        << raw(s.epoch) << " " << name(s.reason) << " "
        << s.model << " " << s.keep_alive_ms << "/" << s.max_tokens << " :";
    for (Token t : store.transcript(s.session, s.tokens)) out << " " << t;
    out << "\n";
  }
  for (uint64_t number = 1; number < w.next_job; ++number) {
    const auto p = store.progress(JobNumber(number));
    if (!p) continue;
    const auto found = store.find_job(w.jobs.at(number).tenant, p->job_id);
    if (w.jobs.at(number).replaced && found && found->job != p->job) continue;
    if (!found || found->job != p->job || found->state != p->state) out << "not found by id: ";
    if (is_terminal(p->state) == live.contains(number)) out << "wrong snapshot: ";
    out << "job " << number << " " << p->job_id << " " << raw(p->session) << " "
        << found->body_hash << " " << name(p->state) << " " << raw(p->attempt) << " "
        << (live.contains(number) ? live.at(number).failures : 0) << " "
        << (live.contains(number) && live.at(number).prompt_tokens >= 0
                ? live.at(number).session_tokens
                : 0)
        << " "
        << (p->started ? p->started->worker : "-") << " " << p->output_tokens << " "
        << (is_terminal(p->state) ? p->ended->tail_text : "") << " :";
    std::string text;
    int64_t next = 0;
    store.read_output(JobNumber(number), 0, [&](OutputRow&& row) {
      if (row.first_index != next) out << " GAP";
      next += static_cast<int64_t>(row.ids.size());
      // Told for each row that came in, as the reference does.
      const auto& rows = w.jobs.at(number).rows;
      for (size_t i = 0; i < row.ids.size(); ++i) {
        out << " " << row.ids[i];
        if (row.logprobs.empty()) continue;
        const int64_t index = row.first_index + static_cast<int64_t>(i);
        for (const auto& r : rows) {
          if (r.first_index + static_cast<int64_t>(r.ids.size()) - 1 == index) {
            out << " lp" << row.logprobs[i + 1 - r.ids.size()][0].token;
          }
        }
      }
      text += row.text;
      return true;
    });
    out << " " << text << "\n";
  }
  return out.str();
}

}  // namespace limpet::broker
