// Decode steps in the way that a worker runs them: the next begun before the tokens of the one in
// flight are known, where the device runs ahead.
#pragma once
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bench/engine_scene.h"

namespace limpet::bench {

inline void expect(const std::string& error) {
  if (!error.empty()) throw std::runtime_error(error);
}

class DecodeLoop {
 public:
  DecodeLoop(engine::Engine& e, const std::vector<engine::SequenceId>& ids)
      : e_(e), ids_(ids), rows_(ids.size()) {
    std::iota(rows_.begin(), rows_.end(), 0);
    const auto first = random_tokens(std::ssize(ids), e.info().vocab, 4);
    std::vector<engine::DrawRow> rows;
    for (size_t i = 0; i < ids.size(); ++i) {
      reserve(i);
      rows.push_back({ids[i], std::span(first).subspan(i, 1), engine::SamplingOptions{},
                      e.kv().length(ids[i]) + 1});
    }
    expect(e.submit(rows));
  }
  // One step; the seconds since the one before.
  double next() {
    for (size_t i = 0; i < ids_.size(); ++i) reserve(i);
    expect(e_.submit_next(rows_));
    for (const engine::Sampled& s : e_.collect(rows_)) expect(s.error);
    const auto now = Clock::now();
    return std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }
  void end() { e_.collect(rows_); }

 private:
  void reserve(size_t i) {
    if (!e_.kv().reserve(ids_[i], 2)) throw std::runtime_error("out of KV pages");
  }
  engine::Engine& e_;
  const std::vector<engine::SequenceId>& ids_;
  std::vector<int32_t> rows_;
  Clock::time_point last_ = Clock::now();
};

// Of the memory that weights are read from: large on a GPU; the CPU's is slower.
inline double measured_read_bandwidth(engine::Engine& e) {
  constexpr int64_t kBytes = int64_t{4} << 30;
  return e.read_bandwidth(e.info().runs_ahead ? kBytes : kBytes / 16);
}

}  // namespace limpet::bench
