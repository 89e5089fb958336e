// The broker's figures, by the names of docs/metrics.md. Counting happens on the broker's thread;
// text() may be called from any.
#pragma once
#include <memory>
#include <string>

#include "broker/core.h"

namespace limpet::broker {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  void count(const Fact& fact);
  void handshakes_refused(const std::string& reason, int64_t n);
  void committed(double seconds, size_t entries);
  void follow(const JobEvent& event, Time now);  // inter-token times
  void set(const Core::Gauges& gauges);

  std::string text() const;  // Prometheus' text format

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace limpet::broker
