// limpet jobs, sessions, workers.
#include <algorithm>
#include <cstdio>

#include "clients/cli/commands.h"
#include "clients/cli/open_client.h"
#include "clients/cli/print.h"

namespace limpet::client {
namespace {

constexpr Millis kAnswer{10000};

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

// With keys, whose each is comes last.
template <typename T>
void print(const std::vector<T>& rows, Row header, bool json) {
  const bool tenants =
      std::ranges::any_of(rows, [](const T& row) { return !tenant_of(row).empty(); });
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

}  // namespace

int list(const ListOptions& options) {
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  const auto answer = client->list(options.what, options.limit, kAnswer);
  if (!answer.error.empty()) return fail(answer.error);
  switch (options.what) {
    case limpet::Listing::jobs:
      print(answer.listed.jobs,
            {"JOB", "SESSION", "STATE", "WORKER", "ATTEMPT", "TOKENS", "DETAIL"}, options.json);
      break;
    case limpet::Listing::sessions:
      print(answer.listed.sessions, {"SESSION", "STATE", "HOME", "EPOCH", "TOKENS", "QUEUED"},
            options.json);
      break;
    case limpet::Listing::workers:
      print(answer.listed.workers,
            {"WORKER", "STATE", "DEVICE", "MODEL", "SESSIONS", "RUNNING", "SLOTS", "FREE KV"},
            options.json);
      break;
  }
  if (answer.listed.truncated) {
    std::fprintf(stderr, "there are more; see them with a larger --limit\n");
  }
  return 0;
}

}  // namespace limpet::client
