#include "keys/zap.h"

#include <zmq.h>

#include <array>
#include <vector>

namespace limpet::keys {
namespace {

constexpr size_t kKeyBytes = 32;
enum Field : size_t { kVersion, kRequest, kDomain, kAddress, kRoutingId, kMechanism, kCredentials };

[[noreturn]] void fail(const char* what) {
  throw ZapError(std::string(what) + ": " + zmq_strerror(zmq_errno()));
}

std::string z85(const std::string& bytes) {
  std::array<char, 41> text{};
  zmq_z85_encode(text.data(), reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  return text.data();
}

// All parts of the next message; none when there is none.
std::vector<std::string> receive(void* socket) {
  std::vector<std::string> parts;
  for (bool more = true; more;) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) < 0) {
      zmq_msg_close(&part);
      if (zmq_errno() == EAGAIN && parts.empty()) return parts;
      fail("cannot receive a request");
    }
    parts.emplace_back(static_cast<const char*>(zmq_msg_data(&part)), zmq_msg_size(&part));
    more = zmq_msg_more(&part) != 0;
    zmq_msg_close(&part);
  }
  return parts;
}

}  // namespace

std::optional<ZapRequest> next_request(void* socket) {
  const std::vector<std::string> parts = receive(socket);
  if (parts.empty()) return std::nullopt;
  ZapRequest request;
  if (parts.size() > kRequest) request.id = parts[kRequest];
  if (parts.size() > kAddress) request.address = parts[kAddress];
  request.readable = parts.size() == kCredentials + 1 && parts[kVersion] == "1.0" &&
                     parts[kCredentials].size() == kKeyBytes;
  if (request.readable) {
    request.mechanism = parts[kMechanism];
    request.key = z85(parts[kCredentials]);
  }
  return request;
}

void answer(void* socket, const ZapRequest& request, const std::string& refused,
            const std::string& user) {
  const bool fine = refused.empty();
  const std::array<std::string, 6> reply = {
      "1.0", request.id, fine ? "200" : "400", fine ? "OK" : refused, user, ""};
  for (size_t i = 0; i < reply.size(); ++i) {
    const int flags = i + 1 < reply.size() ? ZMQ_SNDMORE : 0;
    if (zmq_send(socket, reply[i].data(), reply[i].size(), flags) < 0) {
      fail("cannot answer a request");
    }
  }
}

}  // namespace limpet::keys
