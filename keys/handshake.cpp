#include "keys/handshake.h"

#include <zmq.h>

#include <cstdint>
#include <cstring>
#include <sstream>
#include <stdexcept>

namespace limpet::keys {
namespace {

constexpr std::chrono::milliseconds kTryAgain{1000};
constexpr int kFailed = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                        ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
std::string why(int event, uint32_t value) {
  if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
    return "the broker does not know this key: list it in the broker's --keys";
  }
  if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) {
    return "the broker broke off the handshake: it asks for keys, or holds another key than the"
           " public one given here";
  }
  if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
    return "one side asks for keys and the other has none: give --key and --server-public-key to"
           " all of a broker with keys, and to none of one without";
  }
  return "the handshake failed: is the broker's key the one given here as its public key?";
}

}  // namespace

Watch::Watch(void* context, void* socket)
    : watched_(socket), monitor_(zmq_socket(context, ZMQ_PAIR)) {
  std::ostringstream name;
  name << "inproc://watch-" << socket;  // several of a context may be watched
  const std::string endpoint = name.str();
  const int linger = 0;
  zmq_setsockopt(monitor_, ZMQ_LINGER, &linger, sizeof(linger));
  if (zmq_socket_monitor(watched_, endpoint.c_str(),
                         kFailed | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED) != 0 ||
      zmq_connect(monitor_, endpoint.c_str()) != 0) {
    const std::string what = zmq_strerror(zmq_errno());
    zmq_close(monitor_);
    throw std::runtime_error("cannot watch a socket: " + what);
  }
}

Watch::~Watch() {
  zmq_socket_monitor(watched_, nullptr, 0);
  zmq_close(monitor_);
}

// An event is two frames: its number and value, then the address.
Watch::Seen Watch::look() {
  Seen seen;
  char bytes[6], address[512];
  while (zmq_recv(monitor_, bytes, sizeof(bytes), ZMQ_DONTWAIT) == sizeof(bytes)) {
    uint16_t event = 0;
    uint32_t value = 0;
    std::memcpy(&event, bytes, sizeof(event));
    std::memcpy(&value, bytes + sizeof(event), sizeof(value));
    zmq_recv(monitor_, address, sizeof(address), ZMQ_DONTWAIT);
    if ((event & kFailed) != 0) {
      seen.refused = why(event, value);
      if (event != ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) again_ = Clock::now() + kTryAgain;
      continue;
    }
    connected_ = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
    if (connected_) again_ = Clock::time_point::max();
    (connected_ ? seen.made : seen.gone) = true;
  }
  seen.connected = connected_;
  return seen;
}

void Watch::try_again(const std::string& endpoint) {
  if (Clock::now() < again_) return;
  again_ = Clock::time_point::max();
  zmq_disconnect(watched_, endpoint.c_str());
  zmq_connect(watched_, endpoint.c_str());
}

}  // namespace limpet::keys
