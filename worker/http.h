// A small HTTP server on a thread of its own: GET /metrics, /livez, /readyz.
#pragma once
#include <functional>
#include <memory>
#include <string>

namespace limpet::worker {

struct HttpAnswers {  // called from the server's threads
  std::function<std::string()> metrics;
  std::function<bool()> alive;  // the loop turns
  std::function<bool()> ready;  // registered, and its shapes are warm
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

}  // namespace limpet::worker
