// A model step for one shape bucket, flat: values, and ops over them in the order to run them.
// Plain data, made by the engine, compiled by a backend. It says nothing of where weights, KV
// and inputs live: those are bound to the Executable.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "ops/op.h"
#include "ops/tensor.h"

namespace limpet {

using ValueId = int32_t;  // index into Program::values

enum class ValueKind : uint8_t {
  input,      // written by the host before a run
  weight,     // packed once, shared by all programs
  handle,     // device memory that outlives runs and may be updated by them (KV)
  temporary,  // a place in the Executable's arena; dead after its last reader
  output,     // bound by the caller, who reads back what it wants
};

struct ProgramValue {
  std::string name = {};
  DType dtype = DType::f32;
  Shape shape = {};
  ValueKind kind = ValueKind::temporary;
  Layout layout = Layout::dense;  // weights
  // Of temporaries: bytes from the arena's start, a multiple of 64 unless it is a slice of columns
  // of another temporary, which has that one's row_stride and lies inside it.
  int64_t offset = 0;
  int64_t row_stride = 0;  // elements between rows; 0: dense

  // Bytes from the first element to the end of the last one, unpacked.
  int64_t bytes() const {
    const int64_t stride = row_stride != 0 ? row_stride : shape.cols();
    return shape.rows() == 0 ? 0 : ((shape.rows() - 1) * stride + shape.cols()) * size_of(dtype);
  }
};

struct ProgramStep {
  ops::Op op = {};
  std::vector<ValueId> inputs = {}, outputs = {};  // in the order of the op's header
  int32_t count = -1;  // element of `counts` with the true rows of this op; -1: all rows
};

struct Program {
  std::string name = {};
  std::vector<ProgramValue> values = {};
  std::vector<ProgramStep> steps = {};
  ValueId counts = -1;  // an input i32 [n], when a step counts
  int64_t arena_bytes = 0;
  // Rows of one sequence may follow each other; else each has a sequence of its own. A hint: either
  // program computes either step.
  bool runs = true;
};

// Throws std::logic_error that names the step unless ids are in range, temporaries lie in the
// arena, counts exist, and every op's operands pass its check.
void validate(const Program& program);

}  // namespace limpet
