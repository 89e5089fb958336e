#include "bench/read_bandwidth.h"

#include <chrono>
#include <thread>
#include <vector>

#include "backends/cpu/host_memory.h"

namespace limpet::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Sixteen sums at once, which compilers turn into vectors; several streams keep loads under way.
uint64_t sum_of(const uint64_t* from, size_t n) {
  constexpr size_t kStreams = 4, kLanes = 16;
  const size_t part = n / kStreams;
  uint64_t sums[kStreams][kLanes] = {};
  for (size_t i = 0; i + kLanes <= part; i += kLanes) {
    for (size_t s = 0; s < kStreams; ++s) {
      for (size_t j = 0; j < kLanes; ++j) sums[s][j] += from[s * part + i + j];
    }
  }
  uint64_t all = 0;
  for (const auto& stream : sums) {
    for (const uint64_t v : stream) all += v;
  }
  return all;
}

}  // namespace

struct ReadBandwidth::State {
  int threads;
  HostMemory memory;
  std::vector<uint64_t> results;  // kept, so that the reads are not left out

  size_t words() const {
    return static_cast<size_t>(memory.bytes()) / 8 / static_cast<size_t>(threads);
  }
  void read(size_t thread) {
    const auto* all = reinterpret_cast<const uint64_t*>(memory.data());
    results[thread] += sum_of(all + thread * words(), words());
  }
};

ReadBandwidth::ReadBandwidth(int threads, int64_t bytes)
    : state_(std::make_unique<State>(
          State{threads, HostMemory(bytes), std::vector<uint64_t>(static_cast<size_t>(threads))})) {
  auto* to = reinterpret_cast<uint64_t*>(state_->memory.data());
  for (size_t i = 0; i < static_cast<size_t>(bytes) / 8; ++i) to[i] = i;  // pages of its own
}

ReadBandwidth::~ReadBandwidth() = default;

double ReadBandwidth::measure() {
  std::vector<std::thread> others;
  const auto start = Clock::now();
  for (size_t t = 1; t < state_->results.size(); ++t) {
    others.emplace_back([this, t] { state_->read(t); });
  }
  state_->read(0);
  for (std::thread& t : others) t.join();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return static_cast<double>(state_->words() * 8 * state_->results.size()) / seconds;
}

}  // namespace limpet::bench
