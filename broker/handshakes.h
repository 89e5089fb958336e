// Handshakes of one socket that came to nothing before a key could be asked for, by reason: a peer
// in clear, one that takes us for another broker, one that broke off. One thread: the socket's.
#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace limpet::broker {

class Handshakes {
 public:
  // Watches `socket`, which must live longer; `name` is this monitor's own in its context.
  Handshakes(void* context, void* socket, const std::string& name);
  ~Handshakes();
  Handshakes(const Handshakes&) = delete;
  Handshakes& operator=(const Handshakes&) = delete;

  // Adds those since the last call: mechanism, wrong_server_key, protocol, broken_off.
  void count_refused(std::map<std::string, int64_t>& by_reason);

 private:
  void* watched_;
  void* monitor_;
};

}  // namespace limpet::broker
