// limpet-broker: takes jobs, decides who works, and forgets nothing that it has acknowledged.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <thread>

#include "broker/broker.h"
#include "probes/http_server.h"
#include "probes/log_value.h"

namespace {

using limpet::probes::log_value;

std::atomic<bool> stop{false};

std::atomic<int> reloads{0};

void on_signal(int) { stop = true; }
void on_hangup(int) { reloads.fetch_add(1); }

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;  // without SA_RESTART: the wait on the sockets ends
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  action.sa_handler = on_hangup;
  sigaction(SIGHUP, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file over its limit is a failed write, told like a full disk
}

struct Flags {
  limpet::broker::BrokerOptions options;
  std::string http = "127.0.0.1:5557";
  std::string log_level = "info";
};

void add_ms(CLI::App& app, const char* flag, std::chrono::milliseconds& value, const char* help) {
  app.add_option_function<int64_t>(
         flag, [&value](int64_t ms) { value = std::chrono::milliseconds(ms); }, help)
      ->default_str(std::to_string(value.count()))
      ->check(CLI::Range(int64_t{1}, int64_t{86400000}));
}

// CLI::Range lets nan pass.
CLI::Validator number() {
  return CLI::Validator(
      [](std::string& text) {
        return std::isfinite(std::strtod(text.c_str(), nullptr)) ? "" : text + " is no number";
      },
      "");
}

template <typename Set>
void add_seconds(CLI::App& app, const char* flag, Set set, const char* help) {
  app.add_option_function<int64_t>(flag, set, std::string(help) + "; 0: never")
      ->default_str("0")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 32));
}

void add_flags(CLI::App& app, Flags& f) {
  auto& o = f.options;
  o.endpoints = {"tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556", "", ""};
  o.store.folder = "limpet-data";
  o.reloads = &reloads;
  app.add_option("--frontend", o.endpoints.frontend, "Where clients connect")
      ->capture_default_str();
  app.add_option("--backend", o.endpoints.backend, "Where workers connect")->capture_default_str();
  app.add_option("--server-key", o.endpoints.server_key,
                 "File of the broker's secret key (limpet keygen); needed off loopback");
  app.add_option("--keys", o.endpoints.keys,
                 "File of who may connect: lines `client TENANT KEY`, `admin TENANT KEY`,"
                 " `worker KEY`;\nread again on SIGHUP and when it changes");
  app.add_option("--http", f.http,
                 "ADDRESS:PORT of /metrics, /livez, /readyz, /workers; empty: none")
      ->capture_default_str();
  app.add_option("--data", o.store.folder, "Folder of jobs, sessions and transcripts; one broker")
      ->capture_default_str();
  app.add_option("--config", o.config,
                 "TOML file of tenants' weights and caps; read again on SIGHUP");
  add_ms(app, "--heartbeat-ms", o.core.heartbeat, "How often workers tell that they live");
  add_ms(app, "--lease-ms", o.core.lease, "A worker silent for this long is lost");
  add_ms(app, "--start-deadline-ms", o.core.start_deadline,
         "A session moves when its home has not started its job by then");
  add_ms(app, "--attempt-deadline-ms", o.core.attempt_deadline,
         "A running job that makes no token for this long is tried again");
  add_ms(app, "--home-grace-ms", o.core.home_grace,
         "After a restart, how long workers have to announce their sessions");
  add_ms(app, "--retry-after-ms", o.core.retry_after, "Told to a client that is refused as busy");
  app.add_option("--balance-factor", o.core.balance_factor,
                 "A session whose job waits moves to an idle worker when more jobs are at its home"
                 "\nthan so many times those that it works on")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 1e6) & number());
  app.add_option_function<int64_t>(
         "--keep-alive-ms",
         [&o](int64_t ms) { o.core.keep_alive = std::chrono::milliseconds(ms); },
         "How long a session's idle KV is kept where it does not say itself; -1: until its room\n"
         "is needed")
      ->default_str("-1")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 40));
  add_seconds(app, "--retain-jobs-s", [&o](int64_t s) { o.retention.jobs_ms = s * 1000; },
              "Jobs are forgotten so long after their end, but not those that the transcript of\n"
              "an open session is made of: they go when it ends (--retain-sessions-s)");
  add_seconds(app, "--retain-sessions-s",
              [&o](int64_t s) { o.core.retain_sessions = std::chrono::seconds(s); },
              "A named session that is not used for so long ends, and its transcript with it");
  app.add_option("--retain-bytes", o.retention.bytes,
                 "When the store is larger, the oldest ended jobs go before their time, then the\n"
                 "sessions that are unused for longest; 0: it may grow")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 50));
  app.add_option("--max-attempts", o.core.max_attempts, "Attempts before a job fails")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--max-queued-jobs", o.core.max_queued_jobs, "Beyond: busy")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31));
  app.add_option("--max-queued-bytes", o.core.max_queued_bytes, "Of waiting bodies; beyond: busy")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app.add_option("--log-level", f.log_level, "What to log on stderr")
      ->capture_default_str()
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
}

// Until it is told to stop. Throws StoreFull: nothing that was not durable has left.
void serve(const Flags& flags) {
  std::atomic<bool> ready{false};
  limpet::broker::Broker broker(flags.options);
  std::optional<limpet::probes::HttpServer> http;
  if (!flags.http.empty()) {
    http.emplace(flags.http,
                 limpet::probes::HttpAnswers{[&] { return broker.metrics().text(); },
                                             [&] { return broker.alive(); },
                                             [&] { return ready && broker.alive(); },
                                             {{"/workers", [&] { return broker.worker_page(); }}}});
    spdlog::info("event=http address={}", flags.http);
  }
  ready = true;
  broker.run(stop);
  ready = false;
  spdlog::info("event=stopped");
}

// A full disk fails the turn that met it: its requests were refused, and what the core knew beyond
// the store is forgotten with it. A new one begins from the store until there is room again;
// clients and workers come back by themselves and find what a restart leaves them.
void serve_while_there_is_room(const Flags& flags) {
  while (!stop) {
    try {
      return serve(flags);
    } catch (const limpet::broker::StoreFull& e) {
      spdlog::error("event=disk_full what={}", log_value(e.what()));
    }
    constexpr std::chrono::milliseconds kLook{50};
    for (int i = 0; i < 10 && !stop; ++i) std::this_thread::sleep_for(kLook);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app{
      "Takes jobs from clients, gives them to the workers that hold their sessions, and keeps all\n"
      "that it has acknowledged in --data: start it again on the same folder and it goes on.\n"
      "Example: limpet-broker --data ./data & limpet-worker --broker tcp://127.0.0.1:5556"};
  app.name("limpet-broker");
  add_flags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    std::fprintf(stderr, "limpet-broker: %s (see --help)\n", e.what());
    return 2;
  }
  if (flags.options.endpoints.server_key.empty() != flags.options.endpoints.keys.empty()) {
    std::fprintf(stderr, "limpet-broker: --server-key and --keys go together (see --help)\n");
    return 2;
  }
  if (flags.options.core.lease < 3 * flags.options.core.heartbeat) {
    std::fprintf(stderr, "limpet-broker: --lease-ms must be at least three --heartbeat-ms, or"
                         " workers that live are taken for lost (see --help)\n");
    return 2;
  }
  spdlog::set_default_logger(spdlog::stderr_logger_mt("limpet-broker"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z level=%l %v");
  spdlog::set_level(spdlog::level::from_str(flags.log_level));
  catch_signals();
  try {
    serve_while_there_is_room(flags);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "limpet-broker: %s\n", e.what());
    return 1;
  }
}
