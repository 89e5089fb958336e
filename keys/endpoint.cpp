#include "keys/endpoint.h"

#include <string_view>

namespace limpet::keys {
namespace {

bool is_loopback(std::string_view host) {
  if (host == "[::1]") return true;
  int dots = 0;
  for (char c : host) {
    if (c == '.') ++dots;
    else if (c < '0' || c > '9') return false;
  }
  return dots == 3 && host.substr(0, 4) == "127.";
}

bool is_local(const std::string& endpoint) {
  return endpoint.starts_with("ipc://") || endpoint.starts_with("inproc://");
}

std::string_view host_of(std::string_view tcp_endpoint) {
  const std::string_view rest = tcp_endpoint.substr(6);
  return rest.substr(0, rest.rfind(':'));
}

}  // namespace

std::string refuse_listening(const std::string& endpoint, bool with_keys) {
  if (is_local(endpoint)) return "";
  if (!endpoint.starts_with("tcp://")) {
    return "endpoint " + endpoint + " is not understood: write tcp://127.0.0.1:PORT or ipc://PATH";
  }
  const std::string_view host = host_of(endpoint);
  if (host == "localhost") {
    return "endpoint " + endpoint + " names no address: write 127.0.0.1 instead of localhost";
  }
  if (with_keys || is_loopback(host)) return "";
  return "endpoint " + endpoint +
         " can be reached from other machines, and keys are required off loopback: give"
         " --server-key and --keys, or use tcp://127.0.0.1:PORT";
}

std::string refuse_connecting(const std::string& endpoint, bool with_keys) {
  if (with_keys || is_local(endpoint) || !endpoint.starts_with("tcp://")) return "";
  const std::string_view host = host_of(endpoint);
  if (host == "localhost" || is_loopback(host)) return "";
  return "the broker at " + endpoint +
         " is on another machine, and keys are required off loopback: give --key and"
         " --server-public-key";
}

}  // namespace limpet::keys
