// Ctrl-C and SIGTERM as something a loop can look at.
#pragma once

namespace limpet::client {

// From now on the signals are counted, from 0, instead of ending the process; they interrupt
// system calls.
void catch_interrupts();
// A closed terminal (SIGHUP) counts as SIGTERM, unless it is ignored (nohup).
void catch_hangup();
int interrupts();          // of both kinds
bool terminated();         // one of them was SIGTERM
void forget_interrupts();  // but no SIGTERM

}  // namespace limpet::client
