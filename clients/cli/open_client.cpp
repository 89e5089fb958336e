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
  o.give_up = seconds(options.give_up_s);
  std::unique_ptr<Client> client;
  try {
    client = std::make_unique<Client>(o);
  } catch (const std::invalid_argument& e) {
    fail(e.what());
    return nullptr;
  }
  if (client->wait_connected(seconds(options.connect_s))) return client;
  fail("no broker answers at " + options.endpoint +
       "; start one with `limpet up`, or name another with --broker");
  return nullptr;
}

}  // namespace limpet::client
