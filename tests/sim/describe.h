// One line for a message or an entry, for --trace.
#pragma once
#include <string>

#include "broker/event.h"

namespace limpet::sim {

std::string describe(const ClientMessage& m);
std::string describe(const BrokerToClient& m);
std::string describe(const WorkerMessage& m);
std::string describe(const BrokerToWorker& m);
std::string describe(const GiverMessage& m);
std::string describe(const ReceiverMessage& m);
std::string describe(const broker::JournalEntry& e);

}  // namespace limpet::sim
