#include "tests/faults/faulty_backend.h"

#include <stdexcept>
#include <utility>

#include "backends/makers.h"

namespace limpet {
namespace faults {

Faults& faults() {
  static Faults all;
  return all;
}

namespace {

void check_there() {
  if (faults().lost) throw DeviceLost("the device has failed (as it was told to)");
}

class FaultyExecutable final : public Executable {
 public:
  explicit FaultyExecutable(std::unique_ptr<Executable> real) : real_(std::move(real)) {}
  void bind(ValueId value, Buffer& buffer, int64_t offset) override {
    real_->bind(value, buffer, offset);
  }
  void prepare() override {
    check_there();
    real_->prepare();
  }
  void run() override {
    const int64_t number = ++faults().runs;
    if (number == faults().lost_at_run) faults().lost = true;
    check_there();
    if (number == faults().no_memory_at_run) throw std::runtime_error("out of memory (told to)");
    real_->run();
  }
  int64_t arena_bytes() const override { return real_->arena_bytes(); }

 private:
  std::unique_ptr<Executable> real_;
};

class FaultyBackend final : public Backend {
 public:
  explicit FaultyBackend(std::unique_ptr<Backend> real) : real_(std::move(real)) {}

  const BackendInfo& info() const override { return real_->info(); }
  BackendCounters counters() const override { return real_->counters(); }
  std::unique_ptr<Buffer> allocate(int64_t bytes) override { return real_->allocate(bytes); }
  void write(Buffer& to, int64_t offset, const void* from, int64_t bytes) override {
    check_there();
    real_->write(to, offset, from, bytes);
  }
  void read(const Buffer& from, int64_t offset, void* to, int64_t bytes) override {
    check_there();
    real_->read(from, offset, to, bytes);
  }
  void begin_read(const Buffer& from, int64_t offset, int64_t bytes) override {
    check_there();
    real_->begin_read(from, offset, bytes);
  }
  void finish_read(void* to, int64_t bytes) override {
    check_there();
    real_->finish_read(to, bytes);
  }
  void copy(Buffer& to, int64_t to_offset, const Buffer& from, int64_t from_offset,
            int64_t bytes) override {
    check_there();
    real_->copy(to, to_offset, from, from_offset, bytes);
  }
  std::unique_ptr<HostBuffer> allocate_host(int64_t bytes) override {
    return real_->allocate_host(bytes);
  }
  uint64_t begin_side_copies(Buffer& buffer, bool to_device,
                             std::span<const SideCopy> copies) override {
    check_there();
    return real_->begin_side_copies(buffer, to_device, copies);
  }
  bool side_copies_done(uint64_t number) override {
    check_there();
    return real_->side_copies_done(number);
  }
  std::unique_ptr<Buffer> pack(Layout layout, DType dtype,
                               std::span<const WeightSource> sources) override {
    return real_->pack(layout, dtype, sources);
  }
  void fill(Buffer& buffer, DType dtype, uint64_t seed, float spread) override {
    real_->fill(buffer, dtype, seed, spread);
  }
  double read_bandwidth(int64_t bytes) override { return real_->read_bandwidth(bytes); }
  std::unique_ptr<Executable> compile(const Program& program) override {
    check_there();
    if (++faults().compiles == faults().no_memory_at_compile) {
      throw std::runtime_error("out of memory (told to)");
    }
    return std::make_unique<FaultyExecutable>(real_->compile(program));
  }

 private:
  std::unique_ptr<Backend> real_;
};

}  // namespace
}  // namespace faults

std::unique_ptr<Backend> make_backend(const Device&, const BackendOptions& options) {
  return std::make_unique<faults::FaultyBackend>(make_cpu_backend({DeviceKind::cpu, 0}, options));
}

// For the files of backends that are not built, which come with the library.
void throw_not_built(DeviceKind, const char* option) { throw std::runtime_error(option); }

}  // namespace limpet
