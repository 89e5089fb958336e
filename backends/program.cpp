#include "backends/program.h"

#include <cstddef>
#include <stdexcept>

namespace limpet {
namespace {

void check_value(const Program& p, const ProgramValue& v) {
  const auto fail = [&](const char* what) {
    throw std::logic_error("program " + p.name + ", value " + v.name + ": " + what);
  };
  for (int i = 0; i < v.shape.rank; ++i) {
    if (v.shape[i] < 0) fail("negative extent");
  }
  if (v.shape.rank < 1 || v.shape.rank > 6) fail("rank must be 1 to 6");
  if (v.row_stride != 0 && v.row_stride < v.shape.cols()) fail("rows overlap");
  if (v.layout != Layout::dense && v.kind != ValueKind::weight) fail("only weights are packed");
  if (v.kind != ValueKind::temporary) return;
  if (v.offset < 0 || v.offset % 4 != 0 || v.offset + v.bytes() > p.arena_bytes) {
    fail("lies outside the arena");
  }
}

std::vector<TensorView> views(const Program& p, const std::vector<ValueId>& ids) {
  std::vector<TensorView> all;
  for (const ValueId id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= p.values.size()) {
      throw std::logic_error("value id out of range");
    }
    const ProgramValue& v = p.values[static_cast<size_t>(id)];
    all.push_back({nullptr, v.dtype, v.layout, v.shape, v.row_stride});
  }
  return all;
}

void check_step(const Program& p, const ProgramStep& step) {
  const auto in = views(p, step.inputs), out = views(p, step.outputs);
  std::visit([&](const auto& op) { check(op, {in, out, nullptr}); }, step.op);
  for (const ValueId id : step.outputs) {
    const ValueKind kind = p.values[static_cast<size_t>(id)].kind;
    if (kind == ValueKind::input || kind == ValueKind::weight) {
      throw std::logic_error("writes an input or a weight");
    }
  }
  if (step.count < -1) throw std::logic_error("count must be an element of counts, or -1");
  if (step.count < 0) return;
  const auto counts = views(p, {p.counts});
  if (counts[0].dtype != DType::i32 || step.count >= counts[0].shape.elements()) {
    throw std::logic_error("counts has no such element");
  }
}

}  // namespace

void validate(const Program& program) {
  for (const ProgramValue& v : program.values) check_value(program, v);
  for (size_t i = 0; i < program.steps.size(); ++i) {
    try {
      check_step(program, program.steps[i]);
    } catch (const std::logic_error& e) {
      throw std::logic_error("program " + program.name + ", step " + std::to_string(i) + " (" +
                             ops::name_of(program.steps[i].op) + "): " + e.what());
    }
  }
}

}  // namespace limpet
