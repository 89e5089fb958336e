#include "clients/cli/interrupt.h"

#include <csignal>

namespace limpet::client {
namespace {

volatile std::sig_atomic_t caught = 0;

void count(int) { caught = caught + 1; }

}  // namespace

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = count;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int interrupts() { return caught; }
void forget_interrupts() { caught = 0; }

}  // namespace limpet::client
