// limpet-worker: one device that decodes for a broker and keeps its sessions' KV between jobs.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>

#include "keys/endpoint.h"
#include "probes/http_server.h"
#include "worker/worker.h"

namespace {

std::atomic<int> stop{0};

void on_signal(int) { stop.fetch_add(1); }

// Of a terminal that closes: the kernel and the shell send it each, and a second SIGTERM hurries.
void on_hangup(int) {
  int none = 0;
  stop.compare_exchange_strong(none, 1);
}

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;  // without SA_RESTART: the wait on the socket ends
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  struct sigaction before {};
  sigaction(SIGHUP, nullptr, &before);
  action.sa_handler = on_hangup;
  if (before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);  // else: nohup
  std::signal(SIGPIPE, SIG_IGN);
}

struct Flags {
  limpet::worker::WorkerOptions options;
  std::string dtype = "bf16", batch_buckets = "powers-of-two", past_buckets = "powers-of-two";
  int64_t kv_tokens = 0;
  int64_t grace_ms = 5000;
  bool no_shared_prefixes = false;
  std::string key, server_public_key;
  std::string http = "127.0.0.1:9091";
  std::string log_level = "info";
};

std::string own_name() {
  char host[256] = {};
  if (gethostname(host, sizeof(host) - 1) != 0) return "worker-" + std::to_string(getpid());
  return std::string(host) + "-" + std::to_string(getpid());
}

void add_flags(CLI::App& app, Flags& f) {
  auto& o = f.options;
  const auto at_least_one = CLI::Range(int64_t{1}, int64_t{1} << 20);
  o.broker = "tcp://127.0.0.1:5556";
  o.name = own_name();
  o.engine.model_dir = "models/limpet-tiny";
  app.add_option("--broker", o.broker, "The broker's --backend")->capture_default_str();
  app.add_option("--key", f.key, "File of its own key (limpet keygen); needed off loopback");
  app.add_option("--server-public-key", f.server_public_key,
                 "The broker's public key, or its file");
  app.add_option("--model", o.engine.model_dir,
                 "Folder with config.json, tokenizer.json and *.safetensors")
      ->capture_default_str();
  app.add_option("--device", o.engine.device, "cpu, cuda:0, hip:0, vulkan:0")
      ->capture_default_str();
  app.add_option("--dtype", f.dtype, "Of weights and KV; arithmetic results are float32")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16"}));
  app.add_flag("--int8-weights", o.engine.int8_weights,
               "Keep matrices as 8-bit integers, made while loading: half the memory of bf16, and "
               "faster where memory is the limit; cpu only");
  app.add_option("--kernel-choices", o.engine.choices_file,
                 "File in which a GPU's worker keeps which kernels were fastest for its products, "
                 "and finds it at the next start; else it times them at every start")
      ->type_name("FILE");
  app.add_flag("!--no-timed-kernels", o.engine.timed_choices,
               "Choose a GPU's kernels by fixed rules instead of timing them");
  app.add_option("--name", o.name, "How the broker knows it; keep it over restarts")
      ->check(CLI::Validator(
          [](const std::string& s) {
            return s.empty() || s.size() > limpet::Limits::kName
                       ? "a name has 1 to " + std::to_string(limpet::Limits::kName) + " bytes"
                       : std::string();
          },
          "NAME"));
  app.add_option("--http", f.http, "ADDRESS:PORT of /metrics, /livez, /readyz; empty: none")
      ->capture_default_str();
  app.add_option("--threads", o.engine.threads, "CPU threads; 0: one for each core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--kv-tokens", f.kv_tokens,
                 "Tokens of KV to keep; 0: four times the model's context, at most 1 GiB")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 34));
  app.add_option("--max-jobs", o.max_jobs, "Jobs at a time, running or waiting for pages")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  app.add_option("--token-budget", o.token_budget, "Token rows in one step, decode rows first")
      ->capture_default_str()
      ->check(at_least_one);
  app.add_option("--prefill-chunk", o.prefill_chunk,
                 "Most prompt rows of one job in one step, but for those that other tenants' "
                 "prompts leave to one whose turn it is")
      ->capture_default_str()
      ->check(at_least_one);
  app.add_flag("--no-shared-prefixes", f.no_shared_prefixes,
               "Compute a prompt's beginning again even when another session has its KV");
  app.add_option("--transfer", o.transfer,
                 "Where other workers bring it the KV of sessions when they leave; empty: nowhere")
      ->capture_default_str();
  app.add_option("--grace-ms", f.grace_ms,
                 "When stopped, time to hand over or finish what is here")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{86400000}));
  app.add_option("--log-level", f.log_level, "What to log on stderr")
      ->capture_default_str()
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
}

void add_ladders(CLI::App& app, Flags& f) {
  const auto add = [&](const char* flag, std::string& kind, const char* what) {
    app.add_option(flag, kind, what)
        ->capture_default_str()
        ->check(CLI::IsMember({"powers-of-two", "linear", "single"}));
  };
  add("--batch-buckets", f.batch_buckets,
      "How numbers of rows are rounded up to the shapes that are compiled at the start: linear\n"
      "pads less, single compiles one shape, which all steps pay for");
  add("--past-buckets", f.past_buckets, "The same of the sequences' lengths");
}

// As in 16G. CLI::AsSizeValue alone takes -1 for the largest number there is.
CLI::Validator bytes() {
  constexpr uint64_t kMost = uint64_t{1} << 50;
  return CLI::Validator(
      [](std::string& text) -> std::string {
        const std::string given = text;
        if (given.find('-') != given.npos) return given + " is negative";
        if (std::string wrong = CLI::AsSizeValue(false)(text); !wrong.empty()) return wrong;
        const bool more = std::strtoull(text.c_str(), nullptr, 10) > kMost;
        return more ? given + " is more than 1024T" : "";
      },
      "BYTES");
}

void add_tiers(CLI::App& app, limpet::worker::TierSizes& o) {
  o.disk_folder = "/var/tmp";
  app.add_option("--kv-host-bytes", o.host_bytes,
                 "Host memory for KV of idle sessions that the device has no room for, as in 16G; "
                 "a session that does not fit in it, or 0: computed again")
      ->transform(bytes())
      ->capture_default_str();
  app.add_option("--kv-disk-bytes", o.disk_bytes,
                 "Disk for KV that the host's memory has no room for; 0: none")
      ->transform(bytes())
      ->capture_default_str();
  app.add_option("--kv-disk-dir", o.disk_folder,
                 "Folder for it; its file has no name and is gone with the process")
      ->capture_default_str();
  app.add_option("--kv-least-tokens", o.least_tokens,
                 "Shorter sessions are computed again instead of being kept below the device")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 34));
}

limpet::engine::LadderKind ladder_of(const std::string& kind) {
  using limpet::engine::LadderKind;
  if (kind == "linear") return LadderKind::linear;
  return kind == "single" ? LadderKind::single : LadderKind::powers_of_two;
}

limpet::worker::WorkerOptions options_of(const Flags& f) {
  limpet::worker::WorkerOptions o = f.options;
  o.identity = limpet::keys::identify(f.key, f.server_public_key);
  o.engine.precision =
      f.dtype == "f32" ? limpet::engine::Precision::f32 : limpet::engine::Precision::bf16;
  o.engine.buckets = {ladder_of(f.batch_buckets), ladder_of(f.past_buckets)};
  o.engine.kv_pages = (f.kv_tokens + 15) / 16;
  o.engine.share_prefixes = !f.no_shared_prefixes;
  o.grace = std::chrono::milliseconds(f.grace_ms);
  std::random_device device;
  o.incarnation = (uint64_t{device()} << 32) | device();
  return o;
}

int serve(const Flags& flags) {
  using limpet::worker::Worker;
  const auto options = options_of(flags);  // before a large model is loaded, all that may be wrong
  const std::string refused =
      limpet::keys::refuse_connecting(options.broker, options.identity.on());
  if (!refused.empty()) throw std::runtime_error(refused);
  std::unique_ptr<Worker> worker;  // outlives the server that asks it
  std::atomic<const Worker*> loaded{nullptr};
  std::optional<limpet::probes::HttpServer> http;
  if (!flags.http.empty()) {  // first: a port in use is told before a large model is loaded
    const auto ask = [&](bool (Worker::*what)() const, bool while_loading) {
      return [&loaded, what, while_loading] {
        const Worker* w = loaded;
        return w == nullptr ? while_loading : (w->*what)();
      };
    };
    http.emplace(flags.http, limpet::probes::HttpAnswers{
                                 [&loaded] {
                                   const Worker* w = loaded;
                                   return w == nullptr ? std::string() : w->metrics().text();
                                 },
                                 ask(&Worker::alive, true), ask(&Worker::ready, false), {}});
  }
  worker = std::make_unique<Worker>(options);
  loaded = worker.get();
  worker->run(stop);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app{
      "Decodes for a broker on one device, and keeps its sessions' KV there between jobs.\n"
      "Start one for each device; the broker finds them when they come and when they go.\n"
      "Example: limpet-worker --broker tcp://127.0.0.1:5556 --model models/limpet-tiny"};
  app.name("limpet-worker");
  add_flags(app, flags);
  add_ladders(app, flags);
  add_tiers(app, flags.options.tiers);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    std::fprintf(stderr, "limpet-worker: %s (see --help)\n", e.what());
    return 2;
  }
  spdlog::set_default_logger(spdlog::stderr_logger_mt("limpet-worker"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z level=%l %v");
  spdlog::set_level(spdlog::level::from_str(flags.log_level));
  catch_signals();
  try {
    return serve(flags);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "limpet-worker: %s\n", e.what());
    return 1;
  }
}
