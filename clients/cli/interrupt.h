// Ctrl-C and SIGTERM as something a loop can look at.
#pragma once

namespace limpet::client {

// From now on the signals are counted, from 0, instead of ending the process; they interrupt
// system calls.
void catch_interrupts();
int interrupts();          // of both kinds
bool terminated();         // one of them was SIGTERM
void forget_interrupts();  // but no SIGTERM

}  // namespace limpet::client
