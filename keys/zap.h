// ZeroMQ's question whether a peer may connect (ZAP, ZeroMQ RFC 27), as whoever answers it reads
// and writes it. Bind one REP socket of the context at kZapEndpoint before any other socket binds.
// One thread: the socket's.
#pragma once
#include <optional>
#include <stdexcept>
#include <string>

namespace limpet::keys {

inline constexpr const char* kZapEndpoint = "inproc://zeromq.zap.01";

struct ZapRequest {
  std::string id;       // for the answer
  std::string address;  // of the peer
  bool readable = false;
  std::string mechanism, key;  // when readable: of CURVE the key that it has proven to hold, in Z85
};

struct ZapError : std::runtime_error {
  using runtime_error::runtime_error;
};

// The next request; none when there is none. Throws ZapError.
std::optional<ZapRequest> next_request(void* socket);
// `user` names the peer in each of its frames ("User-Id"). Throws ZapError.
// `refused`: why not; empty: it may come in.
void answer(void* socket, const ZapRequest& request, const std::string& refused,
            const std::string& user);

}  // namespace limpet::keys
