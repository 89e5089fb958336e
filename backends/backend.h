// One device: memory, packed weights, and programs compiled for it.
//
//   auto backend = make_backend(parse_device("cpu"), {.threads = 2});
//   auto x = backend->allocate(bytes);            backend->write(*x, 0, data, bytes);
//   auto exe = backend->compile(program);         exe->bind(id, *x);  …  exe->run();
//   backend->read(*y, 0, result, bytes);
//
// Driven by one thread. Buffers and executables are owned by the caller; a buffer must outlive
// the executables that it is bound to, and all must die before their backend. Work is done in the
// order of the calls; on a GPU only read() and finish_read() wait for it. Out of device memory
// throws std::runtime_error, a device that fails DeviceLost; a call outside the contract throws
// std::logic_error.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/device.h"
#include "backends/program.h"

namespace limpet {

// Device memory.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual int64_t bytes() const = 0;
};

// Host memory that copies reach without passing through other memory: pinned where the device has
// memory of its own.
class HostBuffer {
 public:
  virtual ~HostBuffer() = default;
  virtual std::span<std::byte> bytes() = 0;
};

struct SideCopy {
  int64_t offset = 0;  // in the device's buffer
  std::byte* host = nullptr;
  int64_t bytes = 0;
};

struct BackendInfo {
  Device device;
  std::string description;   // "cpu, 2 threads, AVX3, bf16 dot products"
  std::string lacks;         // what would make it faster and is not there, and how to get it
  int threads = 0;           // of the host that work on kernels
  int64_t memory_bytes = 0;  // of the device; 0: unknown
  // Programs of so many rows, or fewer, are made with or without Program::runs, and steps do well
  // in their own kind alone. 0: all programs are made alike.
  int64_t scattered_rows = 0;
};

// What a run costs and moves is counted where it happens; bytes.
struct BackendCounters {
  int64_t bytes_up = 0;      // write() and pack()
  int64_t bytes_down = 0;    // read()
  int64_t bytes_copied = 0;  // copy(), within the device
  int64_t bytes_packed = 0;  // allocated by pack(): of weights
  int64_t runs = 0;
  int64_t graph_launches = 0;  // runs that replayed a captured graph
  int64_t eager_runs = 0;      // runs that launched op by op, on a backend that could capture
  int64_t captures = 0;        // graphs captured
  double capture_seconds = 0;  // of capturing and instantiating them, the host's time
  int64_t fused_programs = 0;  // compiled to kernels that take several ops at once
  int64_t choices_timed = 0;   // sets of products whose kernels were chosen by timing them
  double choice_seconds = 0;   // of choosing, loading what was chosen included
  // Of the device in runs that are over, and between them, with BackendOptions::timed; 0: unknown.
  double busy_seconds = 0, idle_seconds = 0;
};

// The device is gone or has failed; nothing on it can be relied on. Whoever holds it must end.
class DeviceLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Executable {
 public:
  virtual ~Executable() = default;
  // Binds an input, weight, handle or output to memory from byte `offset` on, a multiple of 4.
  // It holds for every later run, until bound again. Throws when the buffer is too small.
  virtual void bind(ValueId value, Buffer& buffer, int64_t offset = 0) = 0;
  // Does now what the first run would have to do first; everything must be bound.
  virtual void prepare() {}
  // Runs the steps; everything must be bound. What follows on the backend sees its results.
  virtual void run() = 0;
  virtual int64_t arena_bytes() const = 0;
};

// Attention of single rows over their paged KV, each over its own sequence, for benches: bf16
// [rows, heads * head_dim] q and out, i32 [rows] positions, i32 [rows, max_pages] page_table, bf16
// [pages, layers, 2, kv_heads, 16, head_dim] pool.
struct RowsAttention {
  const Buffer *q, *pool, *positions, *row_sequence, *page_table;
  Buffer* out;
  int64_t rows, heads, kv_heads, head_dim, layers, max_pages, window;
  float scale;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;
  virtual BackendCounters counters() const = 0;
  // Lines for a log since the last time: which kernels were chosen.
  virtual std::vector<std::string> news() { return {}; }

  // Zero-filled, aligned for any kernel.
  virtual std::unique_ptr<Buffer> allocate(int64_t bytes) = 0;
  virtual void write(Buffer& to, int64_t offset, const void* from, int64_t bytes) = 0;
  // Waits for the runs before it.
  virtual void read(const Buffer& from, int64_t offset, void* to, int64_t bytes) = 0;
  // Begins to bring bytes to the host, behind the work so far; later work does not wait for it.
  // Finished in the order of their beginnings.
  virtual void begin_read(const Buffer& from, int64_t offset, int64_t bytes) = 0;
  // Waits for the oldest begun and not finished read, whose `bytes` go to `to`.
  virtual void finish_read(void* to, int64_t bytes) = 0;
  virtual void copy(Buffer& to, int64_t to_offset, const Buffer& from, int64_t from_offset,
                    int64_t bytes) = 0;

  virtual std::unique_ptr<HostBuffer> allocate_host(int64_t bytes) = 0;
  // Begins copies between `buffer` and memory of allocate_host(), beside the runs: behind the work
  // so far, but later work does not wait for them. Until they are done nobody may write what they
  // read, nor touch what they write. Their number; they are done in its order in each direction.
  virtual uint64_t begin_side_copies(Buffer& buffer, bool to_device,
                                     std::span<const SideCopy> copies) = 0;
  virtual bool side_copies_done(uint64_t number) = 0;

  // A weight on the device in the layout and dtype (f32 or bf16, rounded to nearest even) that
  // its op wants. dense: one source. linear: one or more of the same cols, stacked by rows.
  // gated: two of the same shape, gate and up. Bind the buffer at offset 0.
  virtual std::unique_ptr<Buffer> pack(Layout layout, DType dtype,
                                       std::span<const WeightSource> sources) = 0;

  // Elements of f32 or bf16, uniform in ±spread, the same for the same seed. For benches.
  virtual void fill(Buffer& buffer, DType dtype, uint64_t seed, float spread) = 0;
  // Bytes a second at which memory that no cache holds is read once, and nothing is written: the
  // bound of everything that must read its weights. The median of a few passes over a buffer of
  // this size, by all threads or processors. For benches.
  virtual double read_bandwidth(int64_t bytes) = 0;

  // Seconds in which the device does the attention of one layer after the other, alone, by the
  // kernel that a fused decode step of such rows runs. Nothing: the backend fuses no such steps.
  virtual std::optional<double> time_attention(const RowsAttention&) { return std::nullopt; }

  // Validates the program and prepares it; throws std::logic_error when it is malformed.
  virtual std::unique_ptr<Executable> compile(const Program& program) = 0;
};

}  // namespace limpet
