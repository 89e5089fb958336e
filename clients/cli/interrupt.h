// Ctrl-C and SIGTERM as something a loop can look at.
#pragma once

namespace limpet::client {

// From now on the signals are counted instead of ending the process; they interrupt system calls.
void catch_interrupts();
int interrupts();
void forget_interrupts();

}  // namespace limpet::client
