// limpet drain: a worker hands over its sessions, and goes.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "clients/cli/commands.h"
#include "clients/cli/open_client.h"
#include "clients/cli/print.h"

namespace limpet::client {
namespace {

using Clock = std::chrono::steady_clock;
using State = DrainStatus::State;

constexpr Millis kAnswer{10000};
constexpr Millis kLook{200};

void show(const DrainStatus& s) {
  std::fprintf(stderr, "\r%s: %lld sessions, %lld jobs left   ", s.worker.c_str(),
               static_cast<long long>(s.sessions), static_cast<long long>(s.running));
}

}  // namespace

// A broker that restarts meanwhile may have forgotten the request, so it is made again.
int drain(const DrainOptions& options) {
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  const auto end = Clock::now() + std::chrono::duration<double>(options.timeout_s);
  const bool terminal = isatty(STDERR_FILENO) == 1;
  uint64_t incarnation = 0;
  for (;;) {
    const auto answer = client->drain(options.worker, incarnation, kAnswer);
    if (!answer.error.empty() && incarnation == 0) return fail(answer.error);
    const DrainStatus& s = answer.status;
    const bool known = answer.error.empty();
    if (known && incarnation == 0 && s.state == State::unknown) {
      return fail("no worker " + options.worker + " is there (see limpet workers)");
    }
    if (known && incarnation == 0 && s.state == State::gone) {
      std::fprintf(stderr, "limpet: %s has gone already\n", options.worker.c_str());
      return 0;
    }
    if (known && s.state == State::gone) break;
    if (known && incarnation == 0) incarnation = s.incarnation;
    if (!options.wait) return 0;
    if (terminal && known) show(s);
    if (Clock::now() >= end) {
      return fail(options.worker + " has not gone yet: " + std::to_string(s.sessions) +
                  " sessions, " + std::to_string(s.running) + " jobs are left there");
    }
    std::this_thread::sleep_for(kLook);
  }
  if (terminal) std::fprintf(stderr, "\r%-60s\n", (options.worker + " has gone").c_str());
  return 0;
}

}  // namespace limpet::client
