// The device buffers that a step's inputs go through, and those that its results come back in.
//
// All inputs but the draws stand in one buffer, page table last, so that a step is one write to
// the device. Driven by the thread that drives the backend.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "engine/step_plan.h"
#include "ops/sample/sample.h"

namespace limpet::engine {

class StepIo {
 public:
  struct Sizes {
    int64_t rows = 0, wanted = 0, sequences = 0, pages = 0;  // of the largest bucket
    int64_t hidden = 0, vocab = 0;
  };
  StepIo(Backend& backend, const Sizes& sizes);

  // Binds a program's inputs and outputs.
  void attach(const Program& program, Executable& executable);
  // Writes a step's inputs; its logits (or hidden states) are for read().
  void write(const StepPlan& plan, const KvCache& kv, int64_t pages, ReadBack what);
  // Reads `rows` rows of the output; the span is valid until the next read.
  std::span<const float> read(ReadBack what, int64_t rows);
  int64_t width(ReadBack what) const {
    return what == ReadBack::logits ? sizes_.vocab : sizes_.hidden;
  }

  // Writes the inputs of a step that draws a token for each wanted row. The context of slot i is
  // contexts[i]; slots are below sizes.sequences.
  void write_draws(const StepPlan& plan, const KvCache& kv, int64_t pages,
                   std::span<const ops::DrawSpec> draws,
                   std::span<const std::vector<Token>> contexts);
  // The step after one whose rows each drew: row i goes on from row from[i] of it. Only what the
  // device does not know yet is written; then its tokens, positions and draws are advanced.
  void advance(std::span<const int32_t> from, std::span<const SequenceId> sequences,
               const KvCache& kv, int64_t pages);
  void begin_drawn(int64_t rows);
  std::vector<ops::DrawnToken> finish_drawn(int64_t rows);

 private:
  void put(int64_t at, std::span<const int32_t> values);
  void stage(const StepPlan& plan, const KvCache& kv, int64_t pages, std::array<int32_t, 3> wanted);
  void compile_advance();

  Backend& backend_;
  Sizes sizes_;
  // First elements of the inputs in the buffer.
  int64_t counts_ = 0, from_ = 0, token_ids_ = 0, positions_ = 0, row_sequence_ = 0;
  int64_t wanted_rows_ = 0, page_table_ = 0;
  std::unique_ptr<Buffer> inputs_, hidden_, logits_, draws_, drawn_, context_;
  std::unique_ptr<Executable> advance_;
  std::vector<int32_t> staging_;  // what the inputs are on the device, but for what it advances
  std::vector<float> values_;
};

}  // namespace limpet::engine
