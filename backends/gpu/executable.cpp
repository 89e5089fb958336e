#include "backends/gpu/executable.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#include "ops/linear/weight.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

constexpr int64_t kAlign = 256;
// A program that is bound anew before each run, as one with feeds is, is not worth a graph.
constexpr int64_t kLinksWorthAGraph = 3;

void expect(bool ok, const std::string& what) {
  if (!ok) throw std::logic_error("gpu backend: " + what);
}

}  // namespace

std::byte* place(const Buffer& buffer, int64_t offset, int64_t bytes) {
  const auto* gpu = dynamic_cast<const GpuBuffer*>(&buffer);
  expect(gpu != nullptr, "a buffer of another backend");
  expect(offset >= 0 && bytes >= 0 && offset <= gpu->bytes() && bytes <= gpu->bytes() - offset,
         "a range outside its buffer");
  return gpu->data() + offset;
}

int64_t stored_bytes(const ProgramValue& v) {
  if (v.layout == Layout::dense) return v.bytes();
  return v.shape[0] * ops::weight_stride(v.shape.cols()) * size_of(v.dtype);
}

void* Context::scratch(size_t bytes) {
  const int64_t at = used_;
  used_ += (static_cast<int64_t>(bytes) + kAlign - 1) / kAlign * kAlign;
  most_ = std::max(most_, used_);
  return memory_ + at;
}

GpuExecutable::GpuExecutable(const Program& program, Shared& shared)
    : program_(program), shared_(shared), context_(shared) {
  arena_ = shared.arenas.at_least(std::max(program.arena_bytes, kAlign));
  bound_.resize(program_.values.size(), nullptr);
  for (size_t i = 0; i < bound_.size(); ++i) {
    const ProgramValue& v = program_.values[i];
    if (v.kind == ValueKind::temporary) bound_[i] = arena_->data() + v.offset;
  }
  for (const ProgramStep& step : program_.steps) {
    calls_.push_back({&step.op, views(step.inputs), views(step.outputs), nullptr});
  }
  if (!shared.fused) return;
  plan_ = DecoderPlan::make(program_, {shared.processors, shared.warp, shared.vendor,
                                       shared.timed_choices, shared.device, &shared.settled});
  if (plan_ == nullptr) return;
  ++shared.counters.fused_programs;
  plan_scratch_ = shared.plans.at_least(plan_->scratch_bytes());
  plan_->give_scratch(plan_scratch_->data());
  plan_awaited_ = shared.awaited.at_least(plan_->awaited_bytes(), [&](const DeviceMemory& m) {
    if (m.bytes() == 0) return;
    gpu_check(LIMPET_GPU(MemsetAsync)(m.data(), 0xff, static_cast<size_t>(m.bytes()),
                                      shared.stream),
              "clearing memory");
  });
  plan_->give_awaited(plan_awaited_->data());
}

GpuExecutable::~GpuExecutable() { drop_graph(); }

void GpuExecutable::drop_graph() {
  if (graph_ == nullptr) return;
  (void)LIMPET_GPU(StreamSynchronize)(shared_.stream);  // its last launch may not be over
  (void)LIMPET_GPU(GraphExecDestroy)(graph_);
  graph_ = nullptr;
}

std::vector<TensorView> GpuExecutable::views(const std::vector<ValueId>& ids) const {
  std::vector<TensorView> all;
  for (const ValueId id : ids) {
    const ProgramValue& v = program_.values[static_cast<size_t>(id)];
    all.push_back({nullptr, v.dtype, v.layout, v.shape, v.row_stride});
  }
  return all;
}

void GpuExecutable::bind(ValueId value, Buffer& buffer, int64_t offset) {
  expect(value >= 0 && static_cast<size_t>(value) < bound_.size(), "no such value to bind");
  const ProgramValue& v = program_.values[static_cast<size_t>(value)];
  expect(v.kind != ValueKind::temporary, "temporaries are not bound");
  expect(offset % 4 == 0 && (v.layout == Layout::dense || offset == 0), "a bad offset");
  std::byte* at = place(buffer, offset, stored_bytes(v));
  if (bound_[static_cast<size_t>(value)] == at) return;
  bound_[static_cast<size_t>(value)] = at;
  linked_ = false;
}

std::byte* GpuExecutable::data_of(ValueId id) const {
  std::byte* data = bound_[static_cast<size_t>(id)];
  if (data == nullptr && program_.values[static_cast<size_t>(id)].bytes() > 0) {
    throw std::logic_error("program " + program_.name + ": " +
                           program_.values[static_cast<size_t>(id)].name + " is not bound");
  }
  return data;
}

void GpuExecutable::link() {
  for (size_t i = 0; i < calls_.size(); ++i) {
    const ProgramStep& step = program_.steps[i];
    for (size_t j = 0; j < step.inputs.size(); ++j) calls_[i].in[j].data = data_of(step.inputs[j]);
    for (size_t j = 0; j < step.outputs.size(); ++j) {
      calls_[i].out[j].data = data_of(step.outputs[j]);
    }
    if (step.count >= 0) {
      calls_[i].count = reinterpret_cast<int32_t*>(data_of(program_.counts)) + step.count;
    }
  }
  drop_graph();
  linked_ = true;
  ++links_;
}

void GpuExecutable::launch() {
  for (size_t i = 0; i < calls_.size(); ++i) {
    const Call& call = calls_[i];
    context_.begin_op();
    if (plan_ != nullptr && plan_->takes(i)) {
      gpu_check(plan_->launch(i, bound_, shared_.stream), "a decoder's layers");
      continue;
    }
    // An op without rows has no launch of its own size.
    if (call.out[0].rows() == 0 || call.out[0].cols() == 0) continue;
    const Args args{call.in, call.out, call.count};
    std::visit([&](const auto& op) { ops::run(op, context_, args); }, *call.op);
    gpu_check(LIMPET_GPU(GetLastError)(), ops::name_of(*call.op));
  }
}

GpuGraph GpuExecutable::capture() {
  GpuGraph graph{};
  const auto mode = LIMPET_GPU(StreamCaptureModeThreadLocal);
  gpu_check(LIMPET_GPU(StreamBeginCapture)(shared_.stream, mode), "beginning to capture");
  try {
    launch();
  } catch (...) {
    (void)LIMPET_GPU(StreamEndCapture)(shared_.stream, &graph);
    if (graph != nullptr) (void)LIMPET_GPU(GraphDestroy)(graph);
    (void)LIMPET_GPU(GetLastError)();  // of the capture that ended so; no later launch's
    throw;
  }
  gpu_check(LIMPET_GPU(StreamEndCapture)(shared_.stream, &graph), "capturing");
  return graph;
}

// The first capture is thrown away when the ops have asked for more scratch memory than there is.
void GpuExecutable::make_graph() {
  if (scratch_ == nullptr) scratch_ = shared_.scratch.largest();
  for (;;) {
    const int64_t there = scratch_ == nullptr ? 0 : scratch_->bytes();
    context_.give(scratch_ == nullptr ? nullptr : scratch_->data());
    GpuGraph graph = capture();
    if (context_.most() <= there) {
      const GpuError error = gpu_instantiate(&graph_, graph);
      (void)LIMPET_GPU(GraphDestroy)(graph);
      gpu_check(error, "instantiating a graph");
      if (shared_.graphs) gpu_upload(graph_, shared_.stream);
      ++shared_.counters.captures;
      measured_ = true;
      return;
    }
    (void)LIMPET_GPU(GraphDestroy)(graph);
    scratch_ = shared_.scratch.at_least(context_.most());
  }
}

void GpuExecutable::prepare() {
  if (!linked_) link();
  if (graph_ != nullptr || (measured_ && links_ >= kLinksWorthAGraph)) return;
  if (plan_ != nullptr) {
    DecoderPlan::Timed timed;
    plan_->choose(bound_, shared_.stream, timed);
    shared_.counters.choices_timed += timed.keys;
    shared_.counters.choice_seconds += timed.seconds;
  }
  const auto begun = std::chrono::steady_clock::now();
  make_graph();
  shared_.counters.capture_seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

void GpuExecutable::run() {
  prepare();
  if (shared_.timed) shared_.clock.start(shared_.stream);
  if (shared_.graphs && graph_ != nullptr) {
    gpu_check(LIMPET_GPU(GraphLaunch)(graph_, shared_.stream), "launching a graph");
    ++shared_.counters.graph_launches;
  } else {
    launch();
    ++shared_.counters.eager_runs;
  }
  if (shared_.timed) shared_.clock.stop(shared_.stream);
  ++shared_.counters.runs;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
