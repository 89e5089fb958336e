// A program on a GPU: its steps' launches, captured once as a graph and replayed.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/gpu/clock.h"
#include "backends/gpu/decoder_plan.h"
#include "backends/gpu/memory.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

// What all programs of a backend share.
struct Shared {
  GpuStream stream{};
  int processors = 0, warp = 0;
  bool graphs = true, timed = false, fused = true, timed_choices = true;
  std::string device;  // the card and its driver, for what is remembered of kernels
  std::set<std::string> settled;  // PlanOptions
  Clock clock;  // of runs, when they are timed
  SharedMemory arenas, scratch, plans;
  SharedMemory awaited;  // DecoderPlan's
  std::function<VendorProducts*()> vendor;  // gives null where there is none
  BackendCounters counters;
};

class GpuBuffer final : public Buffer {
 public:
  explicit GpuBuffer(int64_t bytes) : memory_(bytes) {}
  int64_t bytes() const override { return memory_.bytes(); }
  std::byte* data() const { return memory_.data(); }

 private:
  DeviceMemory memory_;
};

// std::logic_error unless the range lies in a buffer of this backend.
std::byte* place(const Buffer& buffer, int64_t offset, int64_t bytes);
// Bytes of a value as the device keeps it.
int64_t stored_bytes(const ProgramValue& value);

// The scratch memory is known once all ops have asked for it: they are walked through twice.
class Context final : public GpuContext {
 public:
  explicit Context(const Shared& shared) {
    stream = shared.stream;
    processors = shared.processors;
    warp = shared.warp;
  }
  void begin_op() { used_ = 0; }
  void* scratch(size_t bytes) override;
  void give(std::byte* memory) { memory_ = memory; }
  int64_t most() const { return most_; }

 private:
  std::byte* memory_ = nullptr;
  int64_t used_ = 0, most_ = 0;
};

class GpuExecutable final : public Executable {
 public:
  GpuExecutable(const Program& program, Shared& shared);
  ~GpuExecutable() override;

  void bind(ValueId value, Buffer& buffer, int64_t offset) override;
  void prepare() override;
  void run() override;
  // Programs share their temporaries' memory: a bucket costs its graph, about a KiB a launch.
  int64_t arena_bytes() const override { return std::ssize(calls_) * 1024; }

 private:
  struct Call {
    const ops::Op* op;
    std::vector<TensorView> in, out;
    const int32_t* count;
  };
  std::vector<TensorView> views(const std::vector<ValueId>& ids) const;
  std::byte* data_of(ValueId id) const;
  void link();
  void launch();
  GpuGraph capture();
  void make_graph();
  void drop_graph();

  const Program program_;
  Shared& shared_;
  Context context_;
  std::unique_ptr<DecoderPlan> plan_;
  std::shared_ptr<DeviceMemory> arena_, scratch_, plan_scratch_, plan_awaited_;
  std::vector<std::byte*> bound_;
  std::vector<Call> calls_;
  bool linked_ = false;
  bool measured_ = false;  // the scratch memory that the ops ask for is known
  int64_t links_ = 0;
  GpuGraphExec graph_{};
};

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
