// What orchestrators and Prometheus ask of a process: GET /metrics, /livez, /readyz, served by
// threads of its own. A client that is slow keeps one of them for a bounded time, so a few of
// those do not keep a probe from its answer.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>

namespace limpet::probes {

struct HttpAnswers {  // called from the server's threads, several at a time
  std::function<std::string()> metrics;
  std::function<bool()> alive;  // the loop turns
  std::function<bool()> ready;  // it can do its work
  std::map<std::string, std::function<std::string()>> json{};  // further pages, by path
};

class HttpServer {
 public:
  // Listens on ADDRESS:PORT. Throws std::runtime_error when it cannot; the line says what to do.
  HttpServer(const std::string& address, HttpAnswers answers);
  ~HttpServer();  // stops

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace limpet::probes
