#include "clients/cli/open_client.h"

#include <stdexcept>

#include "clients/cli/print.h"

namespace limpet::client {
namespace {

Millis seconds(double s) { return std::chrono::round<Millis>(std::chrono::duration<double>(s)); }

}  // namespace

std::unique_ptr<Client> open_client(const BrokerOptions& options) {
  Options o;
  o.endpoint = options.endpoint;
  o.key_file = options.key;
  o.server_public_key = options.server_public_key;
  o.give_up = seconds(options.give_up_s);
  std::unique_ptr<Client> client;
  try {
    client = std::make_unique<Client>(o);
  } catch (const std::invalid_argument& e) {
    fail(e.what());
    return nullptr;
  }
  const bool less = options.give_up_s > 0 && options.give_up_s < options.connect_s;
  if (client->wait_connected(seconds(less ? options.give_up_s : options.connect_s))) return client;
  if (const std::string why = client->refused(); !why.empty()) {
    fail("the broker at " + options.endpoint + " does not let us in: " + why);
    return nullptr;
  }
  fail("no broker answers at " + options.endpoint +
       "; start one with `limpet up`, or name another with --broker");
  return nullptr;
}

}  // namespace limpet::client
