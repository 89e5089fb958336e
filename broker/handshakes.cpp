#include "broker/handshakes.h"

#include <zmq.h>

#include <cstring>

namespace limpet::broker {
namespace {

const char* reason(uint16_t event, uint32_t value) {
  if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) return "broken_off";
  if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) return "mechanism";
  if (value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) return "wrong_server_key";
  return "protocol";
}

}  // namespace

// What the authenticator refuses is counted there.
Handshakes::Handshakes(void* context, void* socket, const std::string& name)
    : watched_(socket), monitor_(zmq_socket(context, ZMQ_PAIR)) {
  const std::string endpoint = "inproc://handshakes-" + name;
  const int linger = 0;
  zmq_setsockopt(monitor_, ZMQ_LINGER, &linger, sizeof(linger));
  zmq_socket_monitor(watched_, endpoint.c_str(),
                     ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL);
  zmq_connect(monitor_, endpoint.c_str());
}

Handshakes::~Handshakes() {
  zmq_socket_monitor(watched_, nullptr, 0);
  zmq_close(monitor_);
}

// An event is two frames: its number and value, then the address.
void Handshakes::count_refused(std::map<std::string, int64_t>& by_reason) {
  char bytes[6], address[256];
  while (zmq_recv(monitor_, bytes, sizeof(bytes), ZMQ_DONTWAIT) == sizeof(bytes)) {
    uint16_t event = 0;
    uint32_t value = 0;
    std::memcpy(&event, bytes, sizeof(event));
    std::memcpy(&value, bytes + sizeof(event), sizeof(value));
    zmq_recv(monitor_, address, sizeof(address), ZMQ_DONTWAIT);
    ++by_reason[reason(event, value)];
  }
}

}  // namespace limpet::broker
