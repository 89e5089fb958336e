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
  void retired_jobs(int64_t by_age, int64_t by_size);
  void store_bytes(int64_t bytes);

  std::string text() const;  // Prometheus' text format

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace limpet::broker
