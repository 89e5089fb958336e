// Steps whose tokens are drawn on the device: what is in flight, and what becomes of it.
//
// At most two steps are in flight: one that was submitted with tokens that the host knows, and the
// one after it, which the device feeds. A step's tokens are committed when it is collected.
// Owned by the engine, driven by its thread.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/step_io.h"
#include "engine/step_plan.h"

namespace limpet::engine {

class DrawnSteps {
 public:
  // Finds (or compiles) the program for rows of some sequences, lets `write` write its inputs,
  // given the pages of its page table, and runs it. Says why it cannot; then nothing was written.
  using Run = std::function<std::string(int64_t rows, int64_t sequences, int64_t longest_past,
                                        const std::function<void(int64_t pages)>& write)>;

  DrawnSteps(KvCache& kv, StepIo& io, const StepLimits& limits, Run run)
      : kv_(kv), io_(io), limits_(limits), run_(std::move(run)) {}

  std::string submit(std::span<const DrawRow> rows);
  std::string submit_next(std::span<const int32_t> from);
  std::vector<Sampled> collect(std::span<const int32_t> keep);
  int64_t in_flight() const { return std::ssize(steps_); }

 private:
  struct Row {
    SequenceId sequence{};
    std::vector<Token> tokens;  // appended; of a step that the device feeds, once they are known
    int32_t drawn = -1;         // row of the drawn tokens
  };
  struct InFlight {
    std::vector<Row> rows;
    std::vector<int32_t> from;  // rows of the step before that feed it; none: the host did
    int64_t drawn = 0;
  };
  std::string cannot_go_on(std::span<const int32_t> from) const;

  KvCache& kv_;
  StepIo& io_;
  StepLimits limits_;
  Run run_;
  std::deque<InFlight> steps_;
};

}  // namespace limpet::engine
