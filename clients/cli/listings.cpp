// limpet jobs, sessions, workers; release and retry.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/open_client.h"
#include "clients/cli/print.h"

namespace limpet::client {
namespace {

constexpr Millis kAnswer{10000};
constexpr Millis kLook{50};

using Row = std::vector<std::string>;

Row cells(const JobInfo& r) {
  return {r.job_id,
          r.session.empty() ? "-" : r.session,
          std::string(name(r.state)),
          r.worker.empty() ? "-" : r.worker,
          std::to_string(r.attempt),
          std::to_string(r.output_tokens),
          r.detail};
}
Row cells(const SessionInfo& r) {
  return {r.session,
          std::string(name(r.state)),
          r.home.empty() ? "-" : r.home,
          std::to_string(r.epoch),
          std::to_string(r.tokens),
          std::to_string(r.queued_jobs)};
}
Row cells(const WorkerInfo& r) {
  return {r.worker,
          r.state,
          r.device,
          r.model,
          std::to_string(r.sessions),
          std::to_string(r.running),
          std::to_string(r.slots),
          std::to_string(r.waiting),
          std::to_string(r.free_kv_tokens) + "/" + std::to_string(r.total_kv_tokens)};
}

void print_table(const std::vector<Row>& rows) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i] + std::string(i + 1 < row.size() ? widths[i] - row[i].size() + 2 : 0, ' ');
    }
    std::printf("%s\n", line.c_str());
  }
}

const std::string& tenant_of(const auto& row) {
  static const std::string kNone;
  if constexpr (requires { row.tenant; }) return row.tenant;
  else return kNone;
}

bool any_tenant(const auto& rows) {
  return std::ranges::any_of(rows, [](const auto& row) { return !tenant_of(row).empty(); });
}

// With keys, whose each is comes last.
template <typename T>
void print(const std::vector<T>& rows, Row header, bool json) {
  const bool tenants = any_tenant(rows);
  if (tenants) header.push_back("TENANT");
  std::vector<Row> table = {header};
  for (const T& row : rows) {
    if (json) {
      std::printf("%s\n", to_json(row).c_str());
      continue;
    }
    table.push_back(cells(row));
    if (tenants) table.back().push_back(tenant_of(row));
  }
  if (!json) print_table(table);
}

// The dead letters: what has failed, when, and why.
void print_failed(const std::vector<JobInfo>& jobs, bool json) {
  const bool tenants = any_tenant(jobs);
  std::vector<Row> table = {{"JOB", "SESSION", "ENDED", "ATTEMPTS", "WORKER", "CODE", "WHY"}};
  if (tenants) table[0].push_back("TENANT");
  for (const JobInfo& j : jobs) {
    if (json) {
      std::printf("%s\n", to_json(j).c_str());
      continue;
    }
    const std::string code(name(j.code));
    const bool told = j.detail.starts_with(code + ": ");
    table.push_back({j.job_id, j.session.empty() ? "-" : j.session, time_text(j.ended_at),
                     std::to_string(j.attempt), j.worker.empty() ? "-" : j.worker, code,
                     told ? j.detail.substr(code.size() + 2) : j.detail});
    if (tenants) table.back().push_back(j.tenant);
  }
  if (!json) print_table(table);
}

// Names to bits; what is wrong, or nothing.
std::string set_states(const ListOptions& options, List& ask) {
  if (ask.what == limpet::Listing::sessions) {
    for (const std::string& wanted : options.states) {
      const uint32_t before = ask.states;
      for (int i = 0; i <= raw(SessionState::running); ++i) {
        if (name(SessionState(i)) == wanted) ask.states |= 1u << i;
      }
      if (ask.states == before) return "--state of a session is idle, queued or running";
    }
    return "";
  }
  for (const std::string& wanted : options.states) {
    const uint32_t before = ask.states;
    for (int i = 0; i <= raw(JobState::expired); ++i) {
      if (name(JobState(i)) == wanted) ask.states |= 1u << i;
    }
    if (ask.states == before) {
      return "--state of a job is queued, dispatched, running, finished, failed, cancelled or"
             " expired";
    }
  }
  if (options.failed && !options.states.empty()) {
    return "--failed is a view of its own; leave --state away";
  }
  if (options.failed) ask.states |= 1u << raw(JobState::failed);
  return "";
}

// "15m" as milliseconds, at least one; -1 when it is no span of time.
int64_t span_ms(const std::string& text) {
  size_t used = 0;
  double number = -1;
  try {
    number = std::stod(text, &used);
  } catch (const std::exception&) {
    return -1;
  }
  const std::string unit = text.substr(used);
  const double seconds = unit == "s" || unit.empty() ? 1
                         : unit == "m"               ? 60
                         : unit == "h"               ? 3600
                         : unit == "d"               ? 86400
                                                     : -1;
  const double ms = number * seconds * 1000;
  return ms >= 1 && ms <= 1e14 ? static_cast<int64_t>(ms) : -1;
}

WallMs wall_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

void print(const Listed& listed, const ListOptions& options) {
  switch (options.ask.what) {
    case limpet::Listing::jobs:
      if (options.failed) {
        print_failed(listed.jobs, options.json);
      } else {
        print(listed.jobs, {"JOB", "SESSION", "STATE", "WORKER", "ATTEMPT", "TOKENS", "DETAIL"},
              options.json);
      }
      break;
    case limpet::Listing::sessions:
      print(listed.sessions, {"SESSION", "STATE", "HOME", "EPOCH", "TOKENS", "QUEUED"},
            options.json);
      break;
    case limpet::Listing::workers:
      print(listed.workers,
            {"WORKER", "STATE", "DEVICE", "MODEL", "SESSIONS", "RUNNING", "SLOTS", "WAITING",
             "FREE KV"},
            options.json);
      break;
  }
  if (listed.truncated) std::fprintf(stderr, "there are more; see them with a larger --limit\n");
}

// Until Ctrl-C. A broker that restarts meanwhile is waited for.
int watch(Client& client, List ask, const ListOptions& options, int64_t since_ms) {
  catch_interrupts();
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  while (interrupts() == 0) {
    if (since_ms > 0) ask.since = wall_now() - since_ms;
    const auto answer = client.list(ask, kAnswer);
    if (terminal && !options.json) std::printf("\033[H\033[2J");
    if (answer.error.empty()) {
      print(answer.listed, options);
      if (!options.json) std::printf("\n");
    } else {
      std::fprintf(stderr, "limpet: %s\n", answer.error.c_str());
    }
    std::fflush(stdout);
    const auto end = std::chrono::steady_clock::now() +
                     std::chrono::duration<double>(options.watch_s);
    while (interrupts() == 0 && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(kLook);
    }
  }
  return 0;
}

}  // namespace

int list(const ListOptions& options) {
  List ask = options.ask;
  if (std::string wrong = set_states(options, ask); !wrong.empty()) return misused(wrong);
  const int64_t since_ms = options.since.empty() ? 0 : span_ms(options.since);
  if (since_ms < 0) return misused("--since is a span of time, such as 90s, 15m, 2h or 7d");
  if (since_ms > 0) ask.since = wall_now() - since_ms;
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  if (options.watch_s > 0) return watch(*client, ask, options, since_ms);
  const auto answer = client->list(ask, kAnswer);
  if (!answer.error.empty()) return fail(answer.error);
  print(answer.listed, options);
  return 0;
}

int release(const NamedOptions& options) {
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  const auto answer = client->release(options.name, kAnswer, options.tenant);
  if (!answer.error.empty()) return fail(answer.error);
  if (options.json) {
    std::printf("%s\n", to_json(answer.status).c_str());
  } else {
    const bool running = answer.status.state == SessionState::running;
    std::printf("%s: %s; %lld tokens stay in its transcript\n", options.name.c_str(),
                running ? "its KV goes when its job has ended" : "none of its KV is kept",
                static_cast<long long>(answer.status.tokens));
  }
  return 0;
}

int retry(const NamedOptions& options) {
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  const auto answer = client->retry(options.name, kAnswer, options.tenant);
  if (!answer.error.empty()) return fail(answer.error);
  if (options.json) {
    std::printf("%s\n", to_json(answer.status).c_str());
  } else if (answer.status.again) {
    std::printf("%s is queued again; follow it with limpet attach %s\n", options.name.c_str(),
                options.name.c_str());
  } else {
    std::printf("%s is %s: nothing to do\n", options.name.c_str(),
                std::string(name(answer.status.state)).c_str());
  }
  return 0;
}

}  // namespace limpet::client
