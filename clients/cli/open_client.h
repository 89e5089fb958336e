// A connected client, or the one line that says why there is none.
#pragma once
#include <memory>

#include "clients/cli/commands.h"
#include "clients/cpp/client.h"

namespace limpet::client {

std::unique_ptr<Client> open_client(const BrokerOptions& options);

}  // namespace limpet::client
