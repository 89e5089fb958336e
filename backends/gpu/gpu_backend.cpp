#include "backends/gpu/gpu_backend.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "backends/gpu/bench.h"
#include "backends/gpu/choice_memory.h"
#include "backends/gpu/executable.h"
#include "backends/gpu/pack.h"
#include "backends/gpu/side_copies.h"
#include "backends/gpu/staging.h"
#include "backends/gpu/vendor_product.h"
#include "ops/linear/weight.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

constexpr int64_t kPackBytes = 64 << 20;  // of a source that is on the device at a time
constexpr int64_t kScatteredRows = 64;  // as many as a plan's way of few rows takes
constexpr int64_t kVendorBytes = 32 << 20;  // workspace of the vendor's products

void expect(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("gpu backend: ") + what);
}

class Stream {
 public:
  explicit Stream(int device) {
    gpu_check(LIMPET_GPU(SetDevice)(device), "choosing the device");
    gpu_check(LIMPET_GPU(StreamCreateWithFlags)(&stream_, LIMPET_GPU(StreamNonBlocking)),
              "creating a stream");
  }
  ~Stream() {
    (void)LIMPET_GPU(StreamSynchronize)(stream_);
    (void)LIMPET_GPU(StreamDestroy)(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  GpuStream get() const { return stream_; }

 private:
  GpuStream stream_{};
};

class GpuBackend final : public Backend {
 public:
  GpuBackend(const Device& device, const BackendOptions& options)
      : stream_(device.index), staging_(stream_.get()) {
    GpuProperties about{};
    gpu_check(LIMPET_GPU(GetDeviceProperties)(&about, device.index), "asking for the device");
    info_.device = device;
    info_.description = std::string(name_of(device.kind)) + ", " + about.name + ", " +
                        std::to_string(about.multiProcessorCount) + " processors";
    info_.memory_bytes = static_cast<int64_t>(about.totalGlobalMem);
    info_.scattered_rows = options.fused ? kScatteredRows : 0;
    shared_.stream = stream_.get();
    shared_.processors = about.multiProcessorCount;
    shared_.warp = gpu_lanes(about);
    shared_.graphs = options.graphs;
    shared_.timed = options.timed;
    shared_.fused = options.fused;
    shared_.timed_choices = options.timed_choices;
    int driver = 0;
    gpu_check(LIMPET_GPU(DriverGetVersion)(&driver), "asking for the driver's version");
    shared_.device = info_.description + ", driver " + std::to_string(driver);
    if (options.fused && !options.choices_file.empty()) {
      const std::string wrong = ChoiceMemory::of_process().keep_in(options.choices_file);
      if (!wrong.empty()) info_.description += ", kernel choices written anew (" + wrong + ")";
    }
    shared_.vendor = [this] { return vendor_.get(); };
    if (options.fused) open_vendor();
  }

  const BackendInfo& info() const override { return info_; }
  BackendCounters counters() const override {
    BackendCounters now = shared_.counters;
    const Clock::Spent spent = shared_.clock.spent();
    now.busy_seconds = spent.busy, now.idle_seconds = spent.idle;
    return now;
  }

  std::vector<std::string> news() override { return ChoiceMemory::of_process().news(); }

  std::unique_ptr<Buffer> allocate(int64_t bytes) override {
    auto buffer = std::make_unique<GpuBuffer>(bytes);
    if (bytes > 0) {
      gpu_check(LIMPET_GPU(MemsetAsync)(buffer->data(), 0, static_cast<size_t>(bytes),
                                        shared_.stream),
                "clearing memory");
    }
    return buffer;
  }
  void write(Buffer& to, int64_t offset, const void* from, int64_t bytes) override {
    staging_.up(place(to, offset, bytes), from, bytes);
    shared_.counters.bytes_up += bytes;
  }
  void read(const Buffer& from, int64_t offset, void* to, int64_t bytes) override {
    staging_.down(to, place(from, offset, bytes), bytes);
    shared_.counters.bytes_down += bytes;
  }
  void begin_read(const Buffer& from, int64_t offset, int64_t bytes) override {
    expect(staging_.begin_down(place(from, offset, bytes), bytes), "too many reads are begun");
    shared_.counters.bytes_down += bytes;
  }
  void finish_read(void* to, int64_t bytes) override {
    expect(staging_.finish_down(to, bytes), "no such read was begun");
  }
  void copy(Buffer& to, int64_t to_offset, const Buffer& from, int64_t from_offset,
            int64_t bytes) override {
    std::byte* destination = place(to, to_offset, bytes);
    const std::byte* source = place(from, from_offset, bytes);
    if (bytes > 0) {
      gpu_check(LIMPET_GPU(MemcpyAsync)(destination, source, static_cast<size_t>(bytes),
                                        LIMPET_GPU(MemcpyDeviceToDevice), shared_.stream),
                "copying within the device");
    }
    shared_.counters.bytes_copied += bytes;
  }

  std::unique_ptr<HostBuffer> allocate_host(int64_t bytes) override {
    return std::make_unique<PinnedBuffer>(bytes);
  }
  uint64_t begin_side_copies(Buffer& buffer, bool to_device,
                             std::span<const SideCopy> copies) override {
    if (side_ == nullptr) side_ = std::make_unique<SideCopies>(shared_.stream);
    for (const SideCopy& c : copies) {
      side_->add(place(buffer, c.offset, c.bytes), c);
      (to_device ? shared_.counters.bytes_up : shared_.counters.bytes_down) += c.bytes;
    }
    return side_->begin(to_device);
  }
  bool side_copies_done(uint64_t number) override {
    return side_ == nullptr || side_->done(number);
  }

  std::unique_ptr<Buffer> pack(Layout layout, DType dtype,
                               std::span<const WeightSource> sources) override;
  void fill(Buffer& buffer, DType dtype, uint64_t seed, float spread) override {
    fill_random(place(buffer, 0, buffer.bytes()), dtype, buffer.bytes() / size_of(dtype), seed,
                spread, shared_.stream);
  }
  double read_bandwidth(int64_t bytes) override;
  std::optional<double> time_attention(const RowsAttention& shape) override;
  std::unique_ptr<Executable> compile(const Program& program) override {
    validate(program);
    return std::make_unique<GpuExecutable>(program, shared_);
  }

 private:
  void pack_source(const WeightSource& source, PackRows to);
  // At the start, so that whoever reads info() knows what is not there.
  void open_vendor() {
    workspace_ = DeviceMemory(kVendorBytes);
    std::string reason;
    vendor_ = VendorProducts::open(workspace_.data(), static_cast<size_t>(kVendorBytes), &reason);
    if (vendor_ != nullptr) return;
    workspace_ = DeviceMemory();
    info_.description += ", no vendor's products (" + reason + ")";
    info_.lacks = reason + ": steps of more than 64 rows, as of long prompts, run op by op";
  }

  Stream stream_;  // first to be made, last to go
  Staging staging_;
  Shared shared_;
  DeviceMemory source_;  // a piece of what is being packed
  DeviceMemory workspace_;
  std::unique_ptr<VendorProducts> vendor_;  // null: the library is not there
  std::unique_ptr<SideCopies> side_;
  BackendInfo info_;
};

double GpuBackend::read_bandwidth(int64_t bytes) {
  const DeviceMemory memory(bytes);
  fill_random(memory.data(), DType::f32, bytes / 4, 1, 1.0f, shared_.stream);
  const DeviceMemory sum(4);
  std::vector<double> rates;
  for (int pass = 0; pass < 12; ++pass) {
    Clock clock;
    clock.start(shared_.stream);
    read_all(memory.data(), bytes, sum.data(), shared_.processors, shared_.stream);
    clock.stop(shared_.stream);
    if (pass >= 2) rates.push_back(static_cast<double>(bytes) / clock.seconds());
  }
  std::ranges::sort(rates);
  return rates[rates.size() / 2];
}

std::optional<double> GpuBackend::time_attention(const RowsAttention& s) {
  const int64_t row = 2 * s.heads * s.head_dim, slice = 2 * 16 * s.head_dim;
  const RowsInMemory at{place(*s.q, 0, s.rows * row),
                        place(*s.pool, 0, s.layers * 2 * s.kv_heads * slice),
                        place(*s.positions, 0, 4 * s.rows),
                        place(*s.row_sequence, 0, 4 * s.rows),
                        place(*s.page_table, 0, 4 * s.rows * s.max_pages),
                        place(*s.out, 0, s.rows * row)};
  Clock clock;
  const bool timed =
      limpet::time_attention(s, at, shared_.processors, shared_.stream, clock);
  return timed ? std::optional(clock.seconds()) : std::nullopt;
}

void GpuBackend::pack_source(const WeightSource& source, PackRows to) {
  const int64_t row_bytes = std::max<int64_t>(source.cols * size_of(source.dtype), 1);
  const int64_t rows = std::max<int64_t>(source.rows, 1);
  const int64_t piece = std::clamp<int64_t>(kPackBytes / row_bytes, 1, rows);
  if (source_.bytes() < piece * row_bytes) {
    source_ = DeviceMemory(std::max(piece * row_bytes, kPackBytes));
  }
  const int64_t first = to.first_row;
  for (int64_t row = 0; row < source.rows; row += piece) {
    to.rows = std::min(piece, source.rows - row);
    to.first_row = first + row * to.row_step;
    to.from = source_.data();
    to.from_dtype = source.dtype;
    staging_.up(source_.data(), static_cast<const std::byte*>(source.data) + row * row_bytes,
                to.rows * row_bytes);
    pack_rows(to, shared_.stream);
    shared_.counters.bytes_up += to.rows * row_bytes;
  }
}

std::unique_ptr<Buffer> GpuBackend::pack(Layout layout, DType dtype,
                                         std::span<const WeightSource> sources) {
  expect(dtype == DType::f32 || dtype == DType::bf16, "weights are packed as f32 or bf16");
  expect(!sources.empty() && (layout == Layout::linear || sources.size() <= 2), "bad sources");
  int64_t rows = 0;
  const int64_t cols = sources[0].cols;
  for (const WeightSource& s : sources) {
    expect(s.cols == cols && s.rows >= 0 && s.dtype != DType::i32, "sources that do not fit");
    rows += s.rows;
  }
  expect(layout != Layout::dense || sources.size() == 1, "a dense weight has one source");
  expect(layout != Layout::gated || (sources.size() == 2 && sources[0].rows == sources[1].rows),
         "a gated weight is two of one shape");
  PackRows to;
  to.cols = cols;
  to.stride = layout == Layout::dense ? cols : ops::weight_stride(cols);
  to.to_dtype = dtype;
  to.row_step = layout == Layout::gated ? 2 : 1;
  auto packed = std::make_unique<GpuBuffer>(rows * to.stride * size_of(dtype));
  shared_.counters.bytes_packed += packed->bytes();
  if (to.stride != cols) {  // the zeros at the rows' ends
    gpu_check(LIMPET_GPU(MemsetAsync)(packed->data(), 0, static_cast<size_t>(packed->bytes()),
                                      shared_.stream),
              "clearing memory");
  }
  to.to = packed->data();
  int64_t done = 0;
  for (const WeightSource& source : sources) {
    to.first_row = done;
    pack_source(source, to);
    done += layout == Layout::gated ? 1 : source.rows;
  }
  return packed;
}

}  // namespace

std::unique_ptr<Backend> make_gpu_backend(const Device& device, const BackendOptions& options) {
  int count = 0;
  const GpuError error = LIMPET_GPU(GetDeviceCount)(&count);
  (void)LIMPET_GPU(GetLastError)();
  if (error != LIMPET_GPU(Success) || count == 0) {
    throw std::runtime_error(std::string("no ") + name_of(device.kind) + " device is there (" +
                             (error == LIMPET_GPU(Success) ? "the driver knows none"
                                                           : LIMPET_GPU(GetErrorString)(error)) +
                             "); use --device cpu");
  }
  if (device.index >= count) {
    throw std::runtime_error("there is no device " + to_string(device) + "; the last one is " +
                             to_string({device.kind, count - 1}));
  }
  return std::make_unique<GpuBackend>(device, options);
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
