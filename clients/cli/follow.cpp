// Commands that follow one job at a time: submit, attach, cancel, chat.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <utility>

#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/open_client.h"
#include "clients/cli/print.h"
#include "schema/wire.h"

namespace limpet::client {
namespace {

constexpr Millis kLook{100};  // how often an interrupt is looked for

enum class OnInterrupt { leave, cancel };  // the first Ctrl-C; a second one, or SIGTERM, leaves

// Writes the job's events until its last; the exit status.
class Follower {
 public:
  Follower(Job& job, bool json, OnInterrupt on_interrupt, bool acknowledged)
      : job_(job), json_(json), on_interrupt_(on_interrupt), acknowledged_(acknowledged) {}

  int run() {
    while (!job_.over()) {
      const auto event = job_.next(kLook);
      if (event && is_last(*event)) return end(*event);
      if (event) show(*event);
      if (interrupts() > 0 && !interrupted()) return 1;
    }
    return fail("job " + job_.id() + ": its stream was closed");
  }
  bool left() const { return left_; }  // by an interrupt, before the job's end

 private:
  // False: do not go on.
  bool interrupted() {
    if (on_interrupt_ == OnInterrupt::cancel && !cancelling_ && interrupts() == 1 &&
        !terminated()) {
      forget_interrupts();
      cancelling_ = true;
      job_.cancel();
      return true;
    }
    left_ = true;
    new_line();
    if (!acknowledged_) {
      fail("stopped; " + not_acknowledged());
    } else if (cancelling_) {
      fail("stopped before the broker confirmed the cancellation; see limpet attach " + job_.id());
    } else {
      fail("stopped following; the job goes on: limpet attach " + job_.id() + ", limpet cancel " +
           job_.id());
    }
    return false;
  }

  std::string not_acknowledged() const {
    return "job " + job_.id() + " is not acknowledged yet: run again with --job " + job_.id();
  }

  void show(const Event& event) {
    const auto* busy = std::get_if<Busy>(&event);
    acknowledged_ = acknowledged_ || busy == nullptr;
    if (json_) {
      print(event);
    } else if (busy != nullptr) {
      std::fprintf(stderr, "[busy: %s; trying again in %.1f s, until there is room]\n",
                   busy->message.c_str(), static_cast<double>(busy->retry_after_ms) / 1000);
    } else if (const auto* tokens = std::get_if<Tokens>(&event)) {
      std::fwrite(tokens->text.data(), 1, tokens->text.size(), stdout);
      if (!tokens->text.empty()) mid_line_ = tokens->text.back() != '\n';
    } else if (const auto* started = std::get_if<Started>(&event)) {
      std::fprintf(stderr, "[%s; job %s]\n", residency_line(*started).c_str(), job_.id().c_str());
    }
    std::fflush(stdout);
  }

  int end(const Event& event) {
    if (json_) print(event);
    new_line();
    const auto* lost = std::get_if<Lost>(&event);
    if (lost != nullptr && !lost->contradiction && !acknowledged_) {
      return fail(lost->message + "; " + not_acknowledged());
    }
    const std::string failure = failure_of(event);
    return failure.empty() ? 0 : fail(failure);
  }

  static void print(const Event& event) {
    std::printf("%s\n", to_json(event).c_str());
    std::fflush(stdout);
  }

  void new_line() {
    if (std::exchange(mid_line_, false)) std::printf("\n");
    std::fflush(stdout);
  }

  Job& job_;
  const bool json_;
  const OnInterrupt on_interrupt_;
  bool acknowledged_;  // the broker has told of the job
  bool cancelling_ = false, left_ = false, mid_line_ = false;
};

void set_input(JobSpec& spec, const SubmitOptions& options, const std::string& text) {
  spec.messages.clear();
  if (options.raw) {
    spec.kind = InputKind::text;
    spec.text = text;
    return;
  }
  if (!options.system.empty()) spec.messages.push_back({"system", options.system});
  spec.messages.push_back({"user", text});
}

constexpr const char* kNoJobId = "JOB is the id of a job: 1 to 256 bytes";
bool names_a_job(const std::string& id) { return !id.empty() && id.size() <= Limits::kName; }

std::string all_of_stdin() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

}  // namespace

int submit(const SubmitOptions& options) {
  JobSpec spec = options.spec;
  if (spec.job_id.empty()) spec.job_id = drawn_name("job");
  set_input(spec, options, options.text == "-" ? all_of_stdin() : options.text);
  if (const std::string wrong = wire::check(spec); !wrong.empty()) return misused(wrong);
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  catch_interrupts();
  Job job = client->submit(std::move(spec));
  return Follower(job, options.json, OnInterrupt::leave, false).run();
}

int attach(const AttachOptions& options) {
  if (options.from_index < 0) return misused("--from is an index from 0 on");
  if (!names_a_job(options.job_id)) return misused(kNoJobId);
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  catch_interrupts();
  Job job = client->attach(options.job_id, options.from_index);
  return Follower(job, options.json, OnInterrupt::leave, true).run();
}

int cancel(const AttachOptions& options) {
  if (!names_a_job(options.job_id)) return misused(kNoJobId);
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  catch_interrupts();
  Job job = client->attach(options.job_id);
  job.cancel();
  while (!job.over() && interrupts() == 0) {
    const auto event = job.next(kLook);
    if (!event || !is_last(*event)) continue;
    if (options.json) std::printf("%s\n", to_json(*event).c_str());
    const auto* finished = std::get_if<Finished>(&*event);
    if (finished == nullptr) return fail(failure_of(*event));
    if (finished->reason != FinishReason::cancelled) {
      return fail("job " + options.job_id + " had ended already (" +
                  std::string(name(finished->reason)) + ")");
    }
    std::fprintf(stderr, "job %s is cancelled\n", options.job_id.c_str());
    return 0;
  }
  return fail("interrupted before the broker confirmed the cancellation");
}

int chat(const SubmitOptions& options) {
  SubmitOptions turn = options;
  if (turn.spec.session.empty()) turn.spec.session = drawn_name("chat");
  JobSpec any = turn.spec;
  any.job_id = drawn_name("job");
  set_input(any, turn, "hello");
  if (const std::string wrong = wire::check(any); !wrong.empty()) return misused(wrong);
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  catch_interrupts();
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) {
    std::fprintf(stderr, "session %s; Ctrl-C cancels a reply, twice leaves, as does Ctrl-D\n",
                 turn.spec.session.c_str());
  }
  int status = 0;
  for (std::string text; interrupts() == 0;) {
    if (terminal) std::fprintf(stderr, "> ");
    if (!std::getline(std::cin, text)) break;
    if (text.empty()) continue;
    JobSpec spec = turn.spec;
    spec.job_id = drawn_name("job");
    set_input(spec, turn, text);
    Job job = client->submit(std::move(spec));
    Follower follower(job, options.json, OnInterrupt::cancel, false);
    status = follower.run();
    if (follower.left()) return status;
    turn.system.clear();  // it is part of the session now
    if (status != 0 && !terminal) break;
  }
  if (terminal) std::fprintf(stderr, "\n");
  return terminal ? 0 : status;
}

}  // namespace limpet::client
