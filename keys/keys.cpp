#include "keys/keys.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cerrno>
#include <cstring>
#include <sstream>

namespace limpet::keys {
namespace {

constexpr size_t kKeyText = 40, kKeyBytes = 32;
constexpr size_t kLargestFile = 4096;
constexpr mode_t kOthers = 077;

[[noreturn]] void fail(const std::string& what) { throw KeyError(what); }

class File {
 public:
  File(const std::string& path, int flags, mode_t mode = 0)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

std::string text_of(const File& file, const std::string& path) {
  if (file.fd() < 0) fail("cannot read the key file " + path + ": " + std::strerror(errno));
  std::string text(kLargestFile + 1, '\0');
  const ssize_t n = ::read(file.fd(), text.data(), text.size());
  if (n < 0) fail("cannot read the key file " + path + ": " + std::strerror(errno));
  text.resize(static_cast<size_t>(n));
  if (text.size() > kLargestFile) fail(path + " is too long for a key file");
  return text;
}

// The keys of a file's lines; a line that is one key alone is a public key.
KeyPair parse(const std::string& text, const std::string& path) {
  KeyPair pair;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    std::istringstream words(line);
    std::string what, key, rest;
    words >> what >> key >> rest;
    if (what.empty()) continue;
    if (is_key(what) && key.empty()) {
      pair.public_key = what;
    } else if (what == "public" && is_key(key) && rest.empty()) {
      pair.public_key = key;
    } else if (what == "secret" && is_key(key) && rest.empty()) {
      pair.secret_key = key;
    } else if (!what.starts_with('#')) {
      fail(path + " line " + std::to_string(number) +
           " is no key: a key file is made by `limpet keygen FILE`");
    }
  }
  return pair;
}

std::string public_of(const std::string& secret) {
  char text[kKeyText + 1];
  if (zmq_curve_public(text, secret.c_str()) != 0) fail("this ZeroMQ was built without CURVE");
  return text;
}

void write_file(const std::string& path, const std::string& text, mode_t mode) {
  const File file(path, O_WRONLY | O_CREAT | O_EXCL, mode);
  if (file.fd() < 0) {
    fail(errno == EEXIST ? path + " is there already: a key is never written over; choose another"
                           " name, or remove it"
                         : "cannot make " + path + ": " + std::strerror(errno));
  }
  if (::write(file.fd(), text.data(), text.size()) != std::ssize(text) ||
      ::fsync(file.fd()) != 0) {
    const int why = errno;
    ::unlink(path.c_str());
    fail("cannot write " + path + ": " + std::strerror(why));
  }
}

void set(void* socket, int option, const std::string& key) {
  if (zmq_setsockopt(socket, option, key.c_str(), key.size() + 1) != 0) {
    fail(std::string("cannot set a key: ") + zmq_strerror(zmq_errno()));
  }
}

}  // namespace

bool is_key(std::string_view z85) {
  if (z85.size() != kKeyText || z85.find('\0') != z85.npos) return false;
  uint8_t bytes[kKeyBytes];
  return zmq_z85_decode(bytes, std::string(z85).c_str()) != nullptr;
}

KeyPair draw() {
  char open[kKeyText + 1], secret[kKeyText + 1];
  if (zmq_curve_keypair(open, secret) != 0) fail("this ZeroMQ was built without CURVE");
  return {open, secret};
}

void write(const std::string& path, const KeyPair& pair) {
  write_file(path,
             "# A limpet key. Whoever has the secret is its owner: keep the file to yourself.\n"
             "public " + pair.public_key + "\nsecret " + pair.secret_key + "\n",
             0600);
  write_file(path + ".pub", "public " + pair.public_key + "\n", 0644);
}

KeyPair read_secret(const std::string& path) {
  const File file(path, O_RDONLY);
  const std::string text = text_of(file, path);
  struct stat status {};
  if (::fstat(file.fd(), &status) != 0)
    fail("cannot look at " + path + ": " + std::strerror(errno));
  if ((status.st_mode & kOthers) != 0) {
    fail("the key file " + path + " is open to others: chmod 600 " + path);
  }
  KeyPair pair = parse(text, path);
  if (pair.secret_key.empty()) {
    fail(path + " holds no secret key: name the file that `limpet keygen` made, not its .pub");
  }
  const std::string own = public_of(pair.secret_key);
  if (!pair.public_key.empty() && pair.public_key != own) {
    fail(path + " holds a public key that does not belong to its secret key");
  }
  pair.public_key = own;
  return pair;
}

std::string read_public(const std::string& file_or_key) {
  // A path may well have 40 of the characters that keys are written in.
  if (is_key(file_or_key) && access(file_or_key.c_str(), F_OK) != 0) return file_or_key;
  const File file(file_or_key, O_RDONLY);
  const std::string key = parse(text_of(file, file_or_key), file_or_key).public_key;
  if (key.empty()) fail(file_or_key + " holds no public key");
  return key;
}

Identity identify(const std::string& key_file, const std::string& server_public_key) {
  if (key_file.empty() && server_public_key.empty()) return {};
  if (key_file.empty()) {
    fail("the broker's public key is given, but no key of our own: name it with --key");
  }
  if (server_public_key.empty()) {
    fail("a key is given, but not whom it may be used with: name the broker's public key with"
         " --server-public-key");
  }
  return {read_secret(key_file), read_public(server_public_key)};
}

void use(void* socket, const Identity& identity) {
  if (!identity.on()) return;
  set(socket, ZMQ_CURVE_SERVERKEY, identity.server);
  set(socket, ZMQ_CURVE_PUBLICKEY, identity.own.public_key);
  set(socket, ZMQ_CURVE_SECRETKEY, identity.own.secret_key);
}

void serve(void* socket, const KeyPair& server) {
  const int on = 1;
  if (zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &on, sizeof(on)) != 0) {
    fail(std::string("cannot ask for keys: ") + zmq_strerror(zmq_errno()));
  }
  set(socket, ZMQ_CURVE_SECRETKEY, server.secret_key);
  const std::string domain = "limpet";
  zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, domain.data(), domain.size());
}

}  // namespace limpet::keys
