// How fast this machine's memory is read, for comparing with what a decode step reads.
#pragma once
#include <cstdint>
#include <memory>

namespace limpet::bench {

class ReadBandwidth {
 public:
  // `bytes` of memory, far more than the caches hold, read by `threads` threads.
  ReadBandwidth(int threads, int64_t bytes);
  ~ReadBandwidth();
  // One pass over all of it: bytes per second.
  double measure();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace limpet::bench
