#include "probes/http_server.h"

#include <httplib.h>

#include <charconv>
#include <stdexcept>
#include <thread>

namespace limpet::probes {
namespace {

constexpr int kThreads = 32;       // idle, they cost a stack each
constexpr int kSilentSeconds = 1;  // of a client, before it is left

}  // namespace

struct HttpServer::Impl {
  httplib::Server server;
  std::thread thread;
};

HttpServer::HttpServer(const std::string& address, HttpAnswers answers)
    : impl_(std::make_unique<Impl>()) {
  const size_t colon = address.rfind(':');
  int port = 0;
  const char* end = address.data() + address.size();
  if (colon == std::string::npos ||
      std::from_chars(address.data() + colon + 1, end, port).ptr != end || port < 1 ||
      port > 65535) {
    throw std::runtime_error("--http " + address + ": write ADDRESS:PORT, as 127.0.0.1:5557");
  }
  httplib::Server& server = impl_->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.set_socket_options([](socket_t socket) {  // the default lets two servers share a port
    int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  server.set_payload_max_length(1 << 16);
  server.set_read_timeout(kSilentSeconds);
  server.set_write_timeout(kSilentSeconds);
  server.set_keep_alive_timeout(kSilentSeconds);
  server.Get("/metrics", [answers](const httplib::Request&, httplib::Response& r) {
    r.set_content(answers.metrics(), "text/plain; version=0.0.4; charset=utf-8");
  });
  const auto probe = [&server](const char* path, std::function<bool()> good) {
    server.Get(path, [good](const httplib::Request&, httplib::Response& r) {
      r.status = good() ? 200 : 503;
      r.set_content(r.status == 200 ? "ok\n" : "no\n", "text/plain");
    });
  };
  probe("/livez", answers.alive);
  probe("/readyz", answers.ready);
  for (const auto& [path, page] : answers.json) {
    server.Get(path, [page = page](const httplib::Request&, httplib::Response& r) {
      r.set_content(page(), "application/json");
    });
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  if (!server.bind_to_port(host, port)) {
    throw std::runtime_error("cannot listen on --http " + address +
                             ": the port is in use or the address is not this machine's;"
                             " choose another");
  }
  impl_->thread = std::thread([this] { impl_->server.listen_after_bind(); });
}

HttpServer::~HttpServer() {
  while (!impl_->server.is_running()) std::this_thread::yield();  // stop() before that is lost
  impl_->server.stop();
  impl_->thread.join();
}

}  // namespace limpet::probes
