// The device buffers that a step's inputs go through, and those that its results come back in.
//
// All inputs stand in one buffer, page table last, so that a step is one write to the device.
// Driven by the thread that drives the backend.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "engine/step_plan.h"

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
  // Writes a step's inputs.
  void write(const StepPlan& plan, const KvCache& kv, int64_t pages, ReadBack what);
  // Reads `rows` rows of the output; the span is valid until the next read.
  std::span<const float> read(ReadBack what, int64_t rows);
  int64_t width(ReadBack what) const {
    return what == ReadBack::logits ? sizes_.vocab : sizes_.hidden;
  }

 private:
  void put(int64_t at, std::span<const int32_t> values);

  Backend& backend_;
  Sizes sizes_;
  // First elements of the inputs in the buffer.
  int64_t counts_ = 0, token_ids_ = 0, positions_ = 0, row_sequence_ = 0, wanted_rows_ = 0;
  int64_t page_table_ = 0;
  std::unique_ptr<Buffer> inputs_, hidden_, logits_;
  std::vector<int32_t> staging_;
  std::vector<float> values_;
};

}  // namespace limpet::engine
