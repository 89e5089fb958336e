#include "clients/cli/interrupt.h"

#include <csignal>

namespace limpet::client {
namespace {

volatile std::sig_atomic_t caught = 0, ends = 0;

void count(int) { caught = caught + 1; }
void count_end(int) { ends = ends + 1; }

}  // namespace

void catch_interrupts() {
  caught = 0;
  ends = 0;
  struct sigaction action = {};
  action.sa_handler = count;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  action.sa_handler = count_end;
  sigaction(SIGTERM, &action, nullptr);
}

void catch_hangup() {
  struct sigaction before = {}, action = {};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler == SIG_IGN) return;
  action.sa_handler = count_end;
  sigemptyset(&action.sa_mask);
  sigaction(SIGHUP, &action, nullptr);
}

int interrupts() { return caught + ends; }
bool terminated() { return ends > 0; }
void forget_interrupts() { caught = 0; }

}  // namespace limpet::client
