// CURVE keys: how a program proves to the other end of a ZeroMQ connection who it is. A key is 32
// bytes, written as 40 characters of Z85 (ZeroMQ RFC 32).
//
// A key file is text. Lines `public KEY` and `secret KEY`; lines that begin with # are comments. A
// file of a public key alone may be the key and nothing else. A file with a secret must be its
// owner's alone (no permission for others): anything looser is refused.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

namespace limpet::keys {

// what() is one line that names the file and says what to do.
class KeyError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

struct KeyPair {
  std::string public_key, secret_key;
};

// What one end of a connection to a broker holds: its own pair, and who the broker must be.
struct Identity {
  KeyPair own;
  std::string server;  // public key
  bool on() const { return !server.empty(); }
};

bool is_key(std::string_view z85);

KeyPair draw();  // KeyError when this ZeroMQ was built without CURVE
// Makes `path` (mode 0600, never over a file that is there) and `path`.pub.
void write(const std::string& path, const KeyPair& pair);
KeyPair read_secret(const std::string& path);
std::string read_public(const std::string& file_or_key);

// Both or neither: KeyError. Neither: an identity that is not on().
Identity identify(const std::string& key_file, const std::string& server_public_key);

// Before the socket connects or binds; `socket` is a ZeroMQ socket.
void use(void* socket, const Identity& identity);            // as a client of the broker
void serve(void* socket, const KeyPair& server);             // as the broker: asks ZAP

}  // namespace limpet::keys
