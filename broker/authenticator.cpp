#include "broker/authenticator.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <zmq.h>

#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <vector>

#include "keys/keys.h"

namespace limpet::broker {
namespace {

constexpr const char* kEndpoint = "inproc://zeromq.zap.01";
constexpr std::streamoff kLargestFile = 16 << 20;
constexpr size_t kKeyBytes = 32;
// Parts of a request: version, id, domain, address, routing id, mechanism, credentials.
enum Field : size_t { kVersion, kRequest, kDomain, kAddress, kRoutingId, kMechanism, kCredentials };

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + zmq_strerror(zmq_errno()));
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

Authenticator::Authenticator(void* context, const Options& options) : options_(options) {
  seen_ = file_state();
  if (const std::string wrong = read_list(); !wrong.empty()) throw keys::KeyError(wrong);
  socket_ = zmq_socket(context, ZMQ_REP);
  const int linger = 0;
  if (socket_ == nullptr || zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof(linger)) != 0 ||
      zmq_bind(socket_, kEndpoint) != 0) {
    const std::string why = zmq_strerror(zmq_errno());
    if (socket_ != nullptr) zmq_close(socket_);
    throw keys::KeyError("cannot answer for keys: " + why);
  }
  thread_ = std::thread([this] {
    try {
      run();
    } catch (const std::exception& e) {
      const std::lock_guard lock(mutex_);
      failure_ = e.what();
    }
  });
}

Authenticator::~Authenticator() {
  stop_ = true;
  thread_.join();
  zmq_close(socket_);
}

std::shared_ptr<const AllowList> Authenticator::list() const {
  const std::lock_guard lock(mutex_);
  return list_;
}

std::string Authenticator::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

std::map<std::string, int64_t> Authenticator::take_refused() {
  const std::lock_guard lock(mutex_);
  return std::exchange(refused_, {});
}

void Authenticator::run() {
  while (!stop_) {
    zmq_pollitem_t item{socket_, 0, ZMQ_POLLIN, 0};
    const int n = zmq_poll(&item, 1, options_.look_every.count());
    if (n < 0 && zmq_errno() != EINTR) fail("cannot wait for requests");
    while (!stop_ && answer_one()) {
    }
    look_at_file();
  }
}

bool Authenticator::answer_one() {
  const std::vector<std::string> request = receive(socket_);
  if (request.empty()) return false;
  std::string user, refused = "malformed";
  const bool readable = request.size() == kCredentials + 1 && request[kVersion] == "1.0" &&
                        request[kCredentials].size() == kKeyBytes;
  if (readable) refused = decide(request[kMechanism], z85(request[kCredentials]), user);
  const bool fine = refused.empty();
  const std::string id = request.size() > kRequest ? request[kRequest] : "";
  const std::array<std::string, 6> reply = {
      "1.0", id, fine ? "200" : "400", fine ? "OK" : refused, user, ""};
  for (size_t i = 0; i < reply.size(); ++i) {
    const int flags = i + 1 < reply.size() ? ZMQ_SNDMORE : 0;
    if (zmq_send(socket_, reply[i].data(), reply[i].size(), flags) < 0) {
      fail("cannot answer a request");
    }
  }
  if (fine) return true;
  {
    const std::lock_guard lock(mutex_);
    ++refused_[refused];
  }
  const int64_t count = ++refused_ever_[refused];
  if ((count & (count - 1)) == 0) {  // a flood of them does not flood the log
    spdlog::warn("event=handshake_refused reason={} from={} key=\"{}\"", refused,
                 request.size() > kAddress ? request[kAddress] : "",
                 readable ? z85(request[kCredentials]) : "");
  }
  return true;
}

// Why not; empty: it may. The user is named by its key: what the key allows is looked up with
// each message, so that a new list counts at once.
std::string Authenticator::decide(const std::string& mechanism, const std::string& key,
                                  std::string& user) {
  if (mechanism != "CURVE") return "mechanism";
  if (list()->find(key) == nullptr) return "unknown_key";
  user = key;
  return "";
}

Authenticator::FileState Authenticator::file_state() const {
  struct stat s {};
  if (::stat(options_.file.c_str(), &s) != 0) return {};
  return {int64_t{s.st_mtim.tv_sec} * 1'000'000'000 + s.st_mtim.tv_nsec, s.st_size,
          static_cast<uint64_t>(s.st_ino)};
}

void Authenticator::look_at_file() {
  const FileState now = file_state();
  const bool wanted = wanted_.exchange(false);
  if (!wanted && now == seen_) return;
  seen_ = now;
  if (const std::string wrong = read_list(); !wrong.empty()) {
    spdlog::error("event=keys_refused why=\"{}\" note=\"the list before stays in use\"", wrong);
  } else {
    spdlog::info("event=keys_loaded file={} keys={}", options_.file, list()->size());
  }
}

std::string Authenticator::read_list() {
  std::ifstream in(options_.file, std::ios::binary | std::ios::ate);
  if (!in || in.tellg() > kLargestFile) {
    return "the allow-list " + options_.file + " cannot be read" +
           (in ? ": it is too long" : std::string(": ") + std::strerror(errno));
  }
  in.seekg(0);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  ParsedAllowList parsed = parse_allow_list(text);
  if (in.bad() || !parsed.error.empty()) {
    return "the allow-list " + options_.file + " " +
           (in.bad() ? "cannot be read" : parsed.error);
  }
  const std::lock_guard lock(mutex_);
  list_ = std::make_shared<const AllowList>(std::move(parsed.list));
  ++version_;
  return "";
}

}  // namespace limpet::broker
