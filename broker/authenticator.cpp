#include "broker/authenticator.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <zmq.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "keys/keys.h"
#include "keys/zap.h"
#include "probes/log_value.h"

namespace limpet::broker {
namespace {

using probes::log_value;

constexpr std::streamoff kLargestFile = 16 << 20;

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + zmq_strerror(zmq_errno()));
}

}  // namespace

Authenticator::Authenticator(void* context, const Options& options) : options_(options) {
  seen_ = file_state();
  if (const std::string wrong = read_list(); !wrong.empty()) throw keys::KeyError(wrong);
  socket_ = zmq_socket(context, ZMQ_REP);
  const int linger = 0;
  if (socket_ == nullptr || zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof(linger)) != 0 ||
      zmq_bind(socket_, keys::kZapEndpoint) != 0) {
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
  const auto request = keys::next_request(socket_);
  if (!request) return false;
  std::string user, refused = "malformed";
  if (request->readable) refused = decide(request->mechanism, request->key, user);
  const bool fine = refused.empty();
  keys::answer(socket_, *request, refused, user);
  if (fine) return true;
  {
    const std::lock_guard lock(mutex_);
    ++refused_[refused];
  }
  const int64_t count = ++refused_ever_[refused];
  if ((count & (count - 1)) == 0) {  // a flood of them does not flood the log
    spdlog::warn("event=handshake_refused reason={} from={} key={}", refused,
                 request->address, log_value(request->key));
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
    spdlog::error("event=keys_refused why={} note=\"the list before stays in use\"",
                  log_value(wrong));
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
