#include <hwy/targets.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "backends/cpu/host_memory.h"
#include "backends/cpu/thread_pool.h"
#include "backends/makers.h"
#include "backends/random_element.h"
#include "ops/linear/bf16_dot.h"
#include "ops/linear/int8_dot.h"
#include "ops/linear/panel.h"

namespace limpet {
namespace {

constexpr int64_t kPackedAtOnce = 16 << 20;

void expect(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("cpu backend: ") + what);
}

class CpuBuffer final : public Buffer {
 public:
  explicit CpuBuffer(int64_t bytes) : memory_(bytes) {}
  int64_t bytes() const override { return memory_.bytes(); }
  std::byte* data() const { return memory_.data(); }

 private:
  HostMemory memory_;
};

std::byte* place(const Buffer& buffer, int64_t offset, int64_t bytes) {
  const auto* cpu = dynamic_cast<const CpuBuffer*>(&buffer);
  expect(cpu != nullptr, "a buffer of another backend");
  expect(offset >= 0 && bytes >= 0 && offset <= cpu->bytes() && bytes <= cpu->bytes() - offset,
         "a range outside its buffer");
  return cpu->data() + offset;
}

class CpuHostBuffer final : public HostBuffer {
 public:
  explicit CpuHostBuffer(int64_t bytes) : memory_(bytes) {}
  std::span<std::byte> bytes() override {
    return {memory_.data(), static_cast<size_t>(memory_.bytes())};
  }

 private:
  HostMemory memory_;
};

// The kernels' context: the backend's threads, and scratch memory that grows as asked.
class Context final : public CpuContext {
 public:
  Context(int threads, bool dot)
      : pool_(threads), scratch_(static_cast<size_t>(threads)), dot_(dot) {}

  int threads() const override { return pool_.threads(); }
  bool bf16_dot() const override { return dot_; }
  std::byte* shared_scratch(size_t bytes) override { return at_least(shared_, bytes); }
  std::byte* thread_scratch(int thread, size_t bytes) override {
    return at_least(scratch_[static_cast<size_t>(thread)], bytes);
  }

 protected:
  void run_items(int64_t count, Item item, void* task) override { pool_.run(count, item, task); }

 private:
  static std::byte* at_least(HostMemory& memory, size_t bytes) {
    if (memory.bytes() < static_cast<int64_t>(bytes)) {
      memory = HostMemory(static_cast<int64_t>(bytes + bytes / 2));
    }
    return memory.data();
  }

  ThreadPool pool_;
  HostMemory shared_;
  std::vector<HostMemory> scratch_;
  bool dot_;
};

// Steps with their operands' views; run() is a walk over them.
class CpuExecutable final : public Executable {
 public:
  CpuExecutable(const Program& program, Context& context, BackendCounters& counters)
      : program_(program), context_(context), counters_(counters), arena_(program.arena_bytes) {
    bound_.resize(program_.values.size(), nullptr);
    for (size_t i = 0; i < bound_.size(); ++i) {
      const ProgramValue& v = program_.values[i];
      if (v.kind == ValueKind::temporary) bound_[i] = arena_.data() + v.offset;
    }
    for (const ProgramStep& step : program_.steps) {
      steps_.push_back({&step.op, views(step.inputs), views(step.outputs), nullptr});
    }
  }

  void bind(ValueId value, Buffer& buffer, int64_t offset) override {
    expect(value >= 0 && static_cast<size_t>(value) < bound_.size(), "no such value to bind");
    const ProgramValue& v = program_.values[static_cast<size_t>(value)];
    expect(v.kind != ValueKind::temporary, "temporaries are not bound");
    expect(offset % 4 == 0 && (v.layout == Layout::dense || offset == 0), "a bad offset");
    bound_[static_cast<size_t>(value)] = place(buffer, offset, stored_bytes(v));
    linked_ = false;
  }

  void run() override {
    if (!linked_) link();
    for (Call& call : steps_) {
      const Args args{call.in, call.out, call.count};
      std::visit([&](const auto& op) { ops::run(op, context_, args); }, *call.op);
    }
    ++counters_.runs;
  }

  int64_t arena_bytes() const override { return arena_.bytes(); }

 private:
  struct Call {
    const ops::Op* op;
    std::vector<TensorView> in, out;
    const int32_t* count;
  };

  static int64_t stored_bytes(const ProgramValue& v) {
    if (v.layout == Layout::dense) return v.bytes();
    return ops::panel_count(v.layout, v.shape[0]) * ops::panel_bytes(v.dtype, v.shape.cols());
  }

  std::vector<TensorView> views(const std::vector<ValueId>& ids) const {
    std::vector<TensorView> all;
    for (const ValueId id : ids) {
      const ProgramValue& v = program_.values[static_cast<size_t>(id)];
      all.push_back({nullptr, v.dtype, v.layout, v.shape, v.row_stride});
    }
    return all;
  }

  std::byte* data_of(ValueId id) const {
    std::byte* data = bound_[static_cast<size_t>(id)];
    if (data == nullptr) {
      throw std::logic_error("program " + program_.name + ": " +
                             program_.values[static_cast<size_t>(id)].name + " is not bound");
    }
    return data;
  }

  void link() {
    for (size_t i = 0; i < steps_.size(); ++i) {
      const ProgramStep& step = program_.steps[i];
      for (size_t j = 0; j < step.inputs.size(); ++j) {
        steps_[i].in[j].data = data_of(step.inputs[j]);
      }
      for (size_t j = 0; j < step.outputs.size(); ++j) {
        steps_[i].out[j].data = data_of(step.outputs[j]);
      }
      if (step.count >= 0) {
        steps_[i].count = reinterpret_cast<int32_t*>(data_of(program_.counts)) + step.count;
      }
    }
    linked_ = true;
  }

  const Program program_;
  Context& context_;
  BackendCounters& counters_;
  HostMemory arena_;
  std::vector<std::byte*> bound_;
  std::vector<Call> steps_;
  bool linked_ = false;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, bool dot) : context_(threads, dot) {
    info_.device = {DeviceKind::cpu, 0};
    info_.threads = context_.threads();
    info_.description = "cpu, " + std::to_string(info_.threads) + " threads, " +
                        hwy::TargetName(hwy::SupportedAndGeneratedTargets().front()) +
                        (dot && ops::bf16_dot() != nullptr ? ", bf16 dot products" : "") +
                        (dot && ops::int8_dot() != nullptr ? ", int8 dot products" : "");
  }

  const BackendInfo& info() const override { return info_; }
  BackendCounters counters() const override { return counters_; }

  std::unique_ptr<Buffer> allocate(int64_t bytes) override {
    return std::make_unique<CpuBuffer>(bytes);
  }
  void write(Buffer& to, int64_t offset, const void* from, int64_t bytes) override {
    copy_bytes(place(to, offset, bytes), from, bytes);
    counters_.bytes_up += bytes;
  }
  void read(const Buffer& from, int64_t offset, void* to, int64_t bytes) override {
    copy_bytes(to, place(from, offset, bytes), bytes);
    counters_.bytes_down += bytes;
  }
  void begin_read(const Buffer& from, int64_t offset, int64_t bytes) override {
    const std::byte* at = place(from, offset, bytes);
    begun_.emplace_back(at, at + bytes);
    counters_.bytes_down += bytes;
  }
  void finish_read(void* to, int64_t bytes) override {
    expect(!begun_.empty() && std::ssize(begun_.front()) == bytes, "no such read was begun");
    copy_bytes(to, begun_.front().data(), bytes);
    begun_.pop_front();
  }
  void copy(Buffer& to, int64_t to_offset, const Buffer& from, int64_t from_offset,
            int64_t bytes) override {
    std::byte* destination = place(to, to_offset, bytes);
    const std::byte* source = place(from, from_offset, bytes);
    if (bytes > 0) std::memmove(destination, source, static_cast<size_t>(bytes));
    counters_.bytes_copied += bytes;
  }

  std::unique_ptr<HostBuffer> allocate_host(int64_t bytes) override {
    return std::make_unique<CpuHostBuffer>(bytes);
  }
  // Done when they have begun.
  uint64_t begin_side_copies(Buffer& buffer, bool to_device,
                             std::span<const SideCopy> copies) override {
    for (const SideCopy& c : copies) {
      std::byte* at = place(buffer, c.offset, c.bytes);
      copy_bytes(to_device ? at : c.host, to_device ? c.host : at, c.bytes);
      (to_device ? counters_.bytes_up : counters_.bytes_down) += c.bytes;
    }
    return ++side_copies_;
  }
  bool side_copies_done(uint64_t number) override { return number <= side_copies_; }

  void fill(Buffer& buffer, DType dtype, uint64_t seed, float spread) override;
  double read_bandwidth(int64_t bytes) override;
  std::unique_ptr<Buffer> pack(Layout layout, DType dtype,
                               std::span<const WeightSource> sources) override;
  std::unique_ptr<Executable> compile(const Program& program) override {
    validate(program);
    return std::make_unique<CpuExecutable>(program, context_, counters_);
  }

 private:
  static void copy_bytes(void* to, const void* from, int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }

  Context context_;
  BackendInfo info_;
  BackendCounters counters_;
  std::deque<std::vector<std::byte>> begun_;
  uint64_t side_copies_ = 0;
};

// What stands for rows [first, end) of the stacked sources (of each one, when gated) has been read.
void tell_done(Layout layout, std::span<const WeightSource> sources, int64_t first_part,
               int64_t end_part) {
  const int64_t each = layout == Layout::dense   ? 1
                       : layout == Layout::gated ? ops::kPanelHalf
                                                 : ops::kPanelOutputs;
  int64_t before = 0;
  for (const WeightSource& s : sources) {
    const int64_t low = std::clamp<int64_t>(first_part * each - before, 0, s.rows);
    const int64_t high = std::clamp<int64_t>(end_part * each - before, 0, s.rows);
    const int64_t row_bytes = s.cols * size_of(s.dtype);
    if (s.done != nullptr && high > low) {
      s.done(static_cast<const std::byte*>(s.data) + low * row_bytes,
             static_cast<size_t>((high - low) * row_bytes));
    }
    if (layout == Layout::linear) before += s.rows;
  }
}

void CpuBackend::fill(Buffer& buffer, DType dtype, uint64_t seed, float spread) {
  const int64_t elements = buffer.bytes() / size_of(dtype);
  std::byte* to = place(buffer, 0, buffer.bytes());
  constexpr int64_t kRun = 1 << 16;
  context_.parallel_for((elements + kRun - 1) / kRun, [&](int64_t run, int) {
    for (int64_t i = run * kRun; i < std::min(elements, (run + 1) * kRun); ++i) {
      const float v = random_element(seed, static_cast<uint64_t>(i), spread);
      if (dtype == DType::f32) {
        reinterpret_cast<float*>(to)[i] = v;
      } else {
        reinterpret_cast<uint16_t*>(to)[i] = bf16_from_f32(v);
      }
    }
  });
}

double CpuBackend::read_bandwidth(int64_t bytes) {
  const HostMemory memory(bytes);
  const auto* words = reinterpret_cast<const uint64_t*>(memory.data());
  std::memset(memory.data(), 1, static_cast<size_t>(bytes));
  constexpr int64_t kRun = 1 << 20;
  std::vector<double> rates;
  std::atomic<uint64_t> all{0};  // what is read is used
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    context_.parallel_for((bytes + kRun - 1) / kRun, [&](int64_t run, int) {
      const int64_t end = std::min(bytes, (run + 1) * kRun) / 8;
      uint64_t sums[8] = {};
      for (int64_t i = run * kRun / 8; i + 8 <= end; i += 8) {
        for (int64_t j = 0; j < 8; ++j) sums[j] ^= words[i + j];
      }
      for (const uint64_t s : sums) all += s;
    });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    rates.push_back(static_cast<double>(bytes) / took.count());
  }
  std::ranges::sort(rates);
  return rates[rates.size() / 2];
}

std::unique_ptr<Buffer> CpuBackend::pack(Layout layout, DType dtype,
                                         std::span<const WeightSource> sources) {
  const bool dense = layout == Layout::dense;
  expect(dtype == DType::f32 || dtype == DType::bf16 || (dtype == DType::i8 && !dense),
         "weights are packed as f32 or bf16, matrices as i8 too");
  expect(!sources.empty() && (layout == Layout::linear || sources.size() <= 2), "bad sources");
  int64_t rows = 0;
  const int64_t cols = sources[0].cols;
  for (const WeightSource& s : sources) {
    expect(s.cols == cols && s.rows >= 0 && s.dtype != DType::i32 && s.dtype != DType::i8,
           "sources that do not fit");
    rows += s.rows;
  }
  expect(!dense || sources.size() == 1, "a dense weight has one source");
  expect(layout != Layout::gated || (sources.size() == 2 && sources[0].rows == sources[1].rows),
         "a gated weight is two of one shape");
  const int64_t parts = dense ? rows : ops::panel_count(layout, rows);
  const int64_t each = dense ? cols * size_of(dtype) : ops::panel_bytes(dtype, cols);
  auto packed = std::make_unique<CpuBuffer>(parts * each);
  // Some megabytes at a time, so that a file's pages can go while the weight grows.
  const int64_t some =
      std::max<int64_t>(context_.threads(), kPackedAtOnce / std::max<int64_t>(each, 1));
  for (int64_t first = 0; first < parts; first += some) {
    const int64_t n = std::min(some, parts - first);
    context_.parallel_for(n, [&](int64_t i, int) {
      std::byte* to = packed->data() + (first + i) * each;
      if (dense) {
        ops::convert_row(sources[0], first + i, dtype, to);
      } else {
        ops::pack_panel(layout, dtype, sources, first + i, to);
      }
    });
    tell_done(layout, sources, first, first + n);
  }
  counters_.bytes_up += packed->bytes();
  counters_.bytes_packed += packed->bytes();
  return packed;
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const Device& device, const BackendOptions& options) {
  if (device.index != 0) throw std::runtime_error("there is one cpu; use --device cpu");
  if (options.threads < 0 || options.threads > 1024) {
    throw std::runtime_error("threads must be 1 to 1024, or 0 for as many as the machine has");
  }
  int threads = options.threads;
  if (threads == 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return std::make_unique<CpuBackend>(threads, options.bf16_dot);
}

}  // namespace limpet
