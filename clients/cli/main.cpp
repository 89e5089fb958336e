// limpet: the command.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "clients/cli/commands.h"
#include "clients/cli/print.h"
#include "clients/tokenize/tokenize.h"
#include "clients/verify/verify.h"

namespace {

using namespace limpet;
using namespace limpet::client;

constexpr double kYear = 365.0 * 24 * 3600;

// CLI::Range lets nan pass.
CLI::Validator number() {
  return CLI::Validator(
      [](std::string& text) {
        return std::isfinite(std::strtod(text.c_str(), nullptr)) ? "" : text + " is no number";
      },
      "");
}

struct Arguments {
  BrokerOptions broker;
  SubmitOptions submit;
  AttachOptions attach;
  ListOptions list;
  DrainOptions drain;
  NamedOptions named;
  BatchOptions batch;
  UpOptions up;
  KeygenOptions keygen;
  uint64_t seed = 0;
  double deadline_s = 0;
};

void add_broker(CLI::App* command, BrokerOptions& broker) {
  command->add_option("--broker", broker.endpoint, "where the broker listens (or LIMPET_BROKER)")
      ->capture_default_str();
  command->add_option("--key", broker.key,
                      "file of your own key, made by `limpet keygen` (or LIMPET_KEY)");
  command->add_option("--server-public-key", broker.server_public_key,
                      "the broker's public key, or its file (or LIMPET_SERVER_PUBLIC_KEY)");
  command
      ->add_option("--give-up", broker.give_up_s,
                   "seconds without a word from the broker, or a connection, before it is\n"
                   "given up (0: never); one that says busy has given word, and is asked again")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
}

void add_job(CLI::App* c, Arguments& a) {
  JobSpec& s = a.submit.spec;
  Sampling& sampling = s.sampling;
  add_broker(c, a.broker);
  c->add_option("--session", s.session, "the session that the job continues (default: none)");
  c->add_option("--system", a.submit.system, "a system message before the text");
  c->add_option("--max-tokens", s.max_tokens, "longest reply")->capture_default_str();
  c->add_option("--temperature", sampling.temperature, "0: the most likely token, always")
      ->capture_default_str();
  c->add_option("--top-p", sampling.top_p, "draw from the likeliest that make up so much")
      ->capture_default_str();
  c->add_option("--top-k", sampling.top_k, "0: off")->capture_default_str();
  c->add_option("--min-p", sampling.min_p, "0: off")->capture_default_str();
  c->add_option("--repetition-penalty", sampling.repetition_penalty, "1: off")
      ->capture_default_str();
  c->add_option("--seed", a.seed, "same seed, same reply (default: drawn from the job's id)");
  c->add_option("--stop", s.stop, "a text that ends the reply; repeat for more")
      ->allow_extra_args(false);
  c->add_flag("--ignore-eos", s.ignore_eos, "go on after the model's own end");
  c->add_option("--logprobs", sampling.logprobs, "tell this many alternatives of each token");
  c->add_option("--deadline", a.deadline_s, "seconds from acceptance on (0: none)");
  c->add_option("--priority", s.priority, "higher goes first")->capture_default_str();
  c->add_flag("--require-resident", s.require_resident,
              "fail rather than prefill the session again (its first turn is never refused)");
  c->add_option_function<double>(
       "--keep-alive",
       [&s](double seconds) { s.keep_alive_ms = static_cast<int64_t>(seconds * 1000); },
       "seconds for which the session's idle KV is kept, from now on (0: not at all; not\n"
       "said: as before; it cannot go back to what the broker does by itself)")
      ->check(CLI::Range(0.0, kYear) & number());
  c->add_option("--session-max-tokens", s.session_max_tokens,
                "tokens that the session may hold at most, from now on (not said: as before; it\n"
                "can be changed, not lifted: the largest that is accepted is as good as none)")
      ->check(CLI::Range(int64_t{1}, static_cast<int64_t>(Limits::kTokens)));
  c->add_flag("--raw", a.submit.raw, "the text as it is, without the model's chat template");
  c->add_flag("--json", a.submit.json, "one event per line");
}

void add_listing(CLI::App* c, Arguments& a) {
  const std::string name = c->get_name();
  ListOptions& o = a.list;
  add_broker(c, a.broker);
  c->add_option("--limit", o.ask.limit, "show so many at most")->capture_default_str();
  c->add_option("--worker", o.ask.worker, name == "sessions" ? "whose home it is" : "only of it");
  if (name != "workers") {
    c->add_option("--tenant", o.ask.tenant, "only its own; for an admin's key");
    c->add_option("--session", o.ask.session, "only this one");
    c->add_option("--state", o.states, "only of this state; repeat for more")
        ->allow_extra_args(false);
    c->add_option("--since", o.since,
                  std::string(name == "jobs" ? "not over, or ended" : "with jobs, or used") +
                      " at most so long ago (90s, 15m, 2h, 7d)");
  }
  if (name == "jobs") c->add_flag("--failed", o.failed, "those that have failed, and why");
  c->add_flag("--json", o.json, "one object per line");
  c->add_option("--watch", o.watch_s, "again every so many seconds, until Ctrl-C")
      ->expected(0, 1)
      ->default_str("2")
      ->check(CLI::Range(0.1, 86400.0) & number());
}

void add_up(CLI::App& app, Arguments& a) {
  auto* up = app.add_subcommand("up", "a broker and workers on this machine, until Ctrl-C");
  up->add_option("--model", a.up.model, "model folder (default: the embedded one)");
  up->add_option("--workers", a.up.workers)->capture_default_str()->check(CLI::Range(1, 64));
  up->add_option("--device", a.up.device, "cpu, cuda:0, hip:0, vulkan:0")->capture_default_str();
  up->add_option("--data", a.up.data, "folder of the broker's store and the logs")
      ->capture_default_str();
  up->add_option("--port", a.up.port, "for clients; workers and HTTP use the ports after it")
      ->capture_default_str()
      ->check(CLI::Range(1, 65000));
  up->add_option("--http", a.up.http, "ADDRESS:PORT of the broker's metrics");
  up->add_flag("--restart", a.up.restart, "start again what dies");
  up->add_option("--worker-arg", a.up.worker_args, "a further argument of every limpet-worker")
      ->allow_extra_args(false);
}

void add_commands(CLI::App& app, Arguments& a) {
  add_up(app, a);
  auto* submit = app.add_subcommand("submit", "one job; its reply is streamed");
  add_job(submit, a);
  submit->add_option("--job", a.submit.spec.job_id, "the job's id: submitting it again attaches");
  submit->add_option("--rewind-to", a.submit.spec.rewind_to,
                     "cut the session to this many tokens first");
  submit->add_option("TEXT", a.submit.text, "the user's message; - reads it from standard input")
      ->required();
  add_job(app.add_subcommand("chat", "line by line, in one session"), a);

  auto* attach = app.add_subcommand("attach", "follow a job, from the start or from an index");
  attach->add_option("--from", a.attach.from_index, "first token index")->capture_default_str();
  auto* cancel = app.add_subcommand("cancel", "end a job; its session keeps what it has");
  for (auto* c : {attach, cancel}) {
    add_broker(c, a.broker);
    c->add_option("JOB", a.attach.job_id, "the job's id")->required();
    c->add_flag("--json", a.attach.json, "one event per line");
  }
  const std::pair<const char*, const char*> listings[] = {
      {"jobs", "jobs and their states"},
      {"sessions", "sessions, their homes and lengths"},
      {"workers", "workers and their room"}};
  for (const auto& [name, what] : listings) add_listing(app.add_subcommand(name, what), a);

  auto* release = app.add_subcommand("release", "a session's KV may go; its transcript stays");
  release->add_option("SESSION", a.named.name, "the session's name")->required();
  auto* retry = app.add_subcommand("retry", "a job that has failed is done once more");
  retry->add_option("JOB", a.named.name, "the job's id")->required();
  for (auto* c : {release, retry}) {
    add_broker(c, a.broker);
    c->add_option("--tenant", a.named.tenant, "whose, for an admin's key");
    c->add_flag("--json", a.named.json, "the answer as an object");
  }

  auto* drain = app.add_subcommand("drain", "a worker hands over its sessions, and goes");
  add_broker(drain, a.broker);
  drain->add_option("WORKER", a.drain.worker, "its name, as `limpet workers` tells it")->required();
  drain->add_flag_callback("--no-wait", [&a] { a.drain.wait = false; },
                           "do not wait until it has gone");
  drain->add_option("--timeout", a.drain.timeout_s, "seconds to wait for that")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0) & number());

  auto* batch = app.add_subcommand("batch", "OpenAI batch lines in and out; re-running resumes");
  add_broker(batch, a.broker);
  batch->add_option("IN", a.batch.in, "requests: {\"custom_id\": …, \"body\": …} lines")
      ->required();
  batch->add_option("-o,--output", a.batch.out, "answers, in order of completion")->required();
  batch->add_option("--concurrency", a.batch.concurrency, "requests under way at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  batch->add_option("--max-tokens", a.batch.max_tokens, "where a request says none")
      ->capture_default_str();

  auto* keygen = app.add_subcommand("keygen", "draw a key; its public half is told");
  keygen->add_option("FILE", a.keygen.file, "of the secret; FILE.pub gets the public key")
      ->required();

  app.add_subcommand("verify", "check a checkpoint against reference logits");
  app.add_subcommand("tokenize", "JSON lines of text to ids, or back");
}

// The folder of this program.
std::filesystem::path program_folder() {
  std::error_code failed;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
  return failed ? std::filesystem::path(".") : self.parent_path();
}

// The embedded model: installed beside the program, in the tree around it, or where it was built.
std::string embedded_model(const std::filesystem::path& bin) {
  namespace fs = std::filesystem;
  std::vector<fs::path> places = {bin.parent_path() / "share/limpet"};
  for (fs::path p = bin; p.has_relative_path(); p = p.parent_path()) places.push_back(p);
  places.emplace_back(LIMPET_SOURCE_DIR);
  for (const fs::path& place : places) {
    std::error_code ignored;
    if (fs::exists(place / "models/limpet-tiny/config.json", ignored)) {
      return (place / "models/limpet-tiny").string();
    }
  }
  return "";
}

int run(const CLI::App& app, Arguments& a) {
  const auto* command = app.get_subcommands().front();
  const std::string name = command->get_name();
  a.submit.broker = a.attach.broker = a.list.broker = a.batch.broker = a.drain.broker =
      a.named.broker = a.broker;
  if (a.seed != 0 || ((name == "submit" || name == "chat") && command->count("--seed") > 0)) {
    a.submit.spec.sampling.seed = a.seed;
  }
  if (!(a.deadline_s >= 0 && a.deadline_s <= kYear)) {
    return misused("--deadline must be within 0 (none) and a year of seconds");
  }
  if (!std::isfinite(a.broker.give_up_s) || a.broker.give_up_s > kYear) {
    return misused("--give-up must be within 0 (never) and a year of seconds");
  }
  a.submit.spec.deadline_ms = static_cast<int64_t>(std::ceil(a.deadline_s * 1000));
  if (name == "up") {
    a.up.bin = program_folder().string();
    if (a.up.model.empty()) a.up.model = embedded_model(a.up.bin);
    return up(a.up);
  }
  if (name == "keygen") return keygen(a.keygen);
  if (name == "submit") return submit(a.submit);
  if (name == "chat") return chat(a.submit);
  if (name == "attach") return attach(a.attach);
  if (name == "cancel") return cancel(a.attach);
  if (name == "batch") return batch(a.batch);
  if (name == "drain") return drain(a.drain);
  if (name == "release") return release(a.named);
  if (name == "retry") return retry(a.named);
  a.list.ask.what = name == "jobs"       ? limpet::Listing::jobs
                    : name == "sessions" ? limpet::Listing::sessions
                                         : limpet::Listing::workers;
  return list(a.list);
}

}  // namespace

int main(int argc, char** argv) {
  // These two are commands of the engine, with flags of their own.
  const std::string first = argc > 1 ? argv[1] : "";
  if (first == "verify") return verify_main(argc - 1, argv + 1);
  if (first == "tokenize") return tokenize_main(argc - 1, argv + 1);

  Arguments a;
  if (const char* broker = std::getenv("LIMPET_BROKER")) a.broker.endpoint = broker;
  if (const char* key = std::getenv("LIMPET_KEY")) a.broker.key = key;
  if (const char* key = std::getenv("LIMPET_SERVER_PUBLIC_KEY")) a.broker.server_public_key = key;
  CLI::App app("limpet: durable jobs, sticky sessions, KV that stays where it was");
  app.require_subcommand(1);
  add_commands(app, a);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    const auto chosen = app.get_subcommands();
    const auto unknown = app.remaining(true);  // a mistyped flag, rather than what it left missing
    fail((unknown.empty() ? std::string(e.what()) : "there is no " + unknown.front()) +
         " (see limpet " + (chosen.empty() ? "" : chosen.front()->get_name() + " ") + "--help)");
    return 2;
  }
  try {
    return run(app, a);
  } catch (const std::exception& e) {
    return fail(e.what());
  }
}
