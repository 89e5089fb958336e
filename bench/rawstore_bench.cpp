// The store alone: what a turn of the broker's loop costs to make durable.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "bench/broker_bench.h"
#include "broker/store.h"

namespace limpet::bench {
namespace {

using broker::JournalEntry;
using broker::Store;

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

struct Folder {
  std::string path = (std::filesystem::temp_directory_path() / "limpet-bench-XXXXXX").string();
  Folder() {
    if (mkdtemp(path.data()) == nullptr) throw std::runtime_error("cannot make a folder");
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

std::string job_id(uint64_t n) { return "job-" + std::to_string(n * 0x9E3779B97F4A7C15ull); }

void accept(uint64_t n, uint64_t session, std::vector<JournalEntry>& out) {
  auto spec = std::make_shared<JobSpec>();
  spec->job_id = job_id(n);
  spec->session = "session-" + std::to_string(session);
  spec->messages = {{"user", "What comes next? Say it in a few words, as you did before."}};
  out.push_back(broker::JobAccepted{JobNumber(n), SessionNumber(session), spec, n, n, 1, 0});
  out.push_back(broker::JobDispatched{JobNumber(n), Attempt(1)});
}

void start(uint64_t n, int64_t base, std::vector<JournalEntry>& out) {
  broker::StartedEntry e;
  e.job = JobNumber(n);
  e.attempt = Attempt(1);
  e.worker = "double";
  e.base_tokens = base;
  e.has_prompt = true;
  e.prompt = {1, 2, 3, 4};
  out.push_back(std::move(e));
}

void report(const char* what, double count, double wall, double cpu) {
  const nlohmann::json line = {{"bench", "rawstore"}, {"what", what}, {"count", count},
                               {"per_second", count / wall},
                               {"cpu_us_each", cpu / count * 1e6}};
  std::printf("%s\n", line.dump().c_str());
}

// Accepted and dispatched in one commit; started, 8 tokens and ended in the next.
void jobs(int64_t total, int64_t batch, int64_t sessions) {
  const Folder folder;
  auto store = Store::open({.folder = folder.path});
  std::vector<JournalEntry> entries;
  std::vector<int64_t> lengths(static_cast<size_t>(sessions), 0);
  for (int64_t s = 1; s <= sessions; ++s) {
    entries.push_back(
        broker::SessionOpened{SessionNumber(s), "session-" + std::to_string(s)});
    if (s % 4096 == 0 || s == sessions) {
      store->commit(entries);
      entries.clear();
    }
  }
  const double wall = wall_seconds(), cpu = cpu_seconds();
  for (int64_t done = 0; done < total; done += batch) {
    entries.clear();
    for (int64_t i = 1; i <= batch; ++i) {
      const auto n = static_cast<uint64_t>(done + i);
      accept(n, 1 + n * 2654435761u % static_cast<uint64_t>(sessions), entries);
    }
    store->commit(entries);
    entries.clear();
    for (int64_t i = 1; i <= batch; ++i) {
      const auto n = static_cast<uint64_t>(done + i);
      int64_t& length = lengths[n * 2654435761u % static_cast<uint64_t>(sessions)];
      start(n, length, entries);
      entries.push_back(broker::TokensAppended{
          {{JobNumber(n), 0, {1, 2, 3, 4, 5, 6, 7, 8}, " eight words of text here", {}}}});
      broker::JobEndedEntry end;
      end.job = JobNumber(n);
      end.session_tokens = length += 12;
      entries.push_back(std::move(end));
    }
    store->commit(entries);
  }
  report("jobs", static_cast<double>(total), wall_seconds() - wall, cpu_seconds() - cpu);
}

void tokens(int64_t streams, int64_t length) {
  const Folder folder;
  auto store = Store::open({.folder = folder.path});
  std::vector<JournalEntry> entries;
  for (int64_t n = 1; n <= streams; ++n) {
    entries.push_back(broker::SessionOpened{SessionNumber(n), "session-" + std::to_string(n)});
    accept(static_cast<uint64_t>(n), static_cast<uint64_t>(n), entries);
    start(static_cast<uint64_t>(n), 0, entries);
  }
  store->commit(entries);
  const double wall = wall_seconds(), cpu = cpu_seconds();
  for (int64_t at = 0; at < length; ++at) {
    broker::TokensAppended step;
    for (int64_t n = 1; n <= streams; ++n) {
      step.rows.push_back({JobNumber(n), at, {static_cast<Token>(at)}, " word", {}});
    }
    entries.clear();
    entries.push_back(std::move(step));
    store->commit(entries);
  }
  report("tokens", static_cast<double>(streams * length), wall_seconds() - wall,
         cpu_seconds() - cpu);
}

}  // namespace

int rawstore_bench(int argc, char** argv) {
  int64_t total = 100000, batch = 256, sessions = 1000, streams = 256, length = 4000;
  CLI::App app{"The broker's store alone"};
  app.name("limpet-bench rawstore");
  app.add_option("--jobs", total, "Short jobs")->capture_default_str();
  app.add_option("--batch", batch, "Jobs in a commit")->capture_default_str();
  app.add_option("--sessions", sessions, "Sessions of the jobs")->capture_default_str();
  app.add_option("--streams", streams, "Long streams; a commit has a token of each")
      ->capture_default_str();
  app.add_option("--length", length, "Tokens of a stream")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  jobs(total, batch, sessions);
  tokens(streams, length);
  return 0;
}

}  // namespace limpet::bench
