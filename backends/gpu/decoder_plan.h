// A decoder's layers on the kernels that take several ops at once (ops/*/*.cuh): a dozen launches
// fewer a layer, and every activation but the residual stream in bf16.
//
// One row: all layers as one kernel, or matrix-vector products. 2 … 64 rows: tensor cores, by own
// kernels or the vendor's, whichever were fastest (choose()). More: the vendor's products.
// Attention takes rows one by one, or, where the program may have runs of a sequence's rows, many
// together. Programs of other shapes run op by op.
#pragma once
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/gpu/clock.h"
#include "backends/gpu/memory.h"
#include "backends/program.h"

namespace limpet {

inline namespace LIMPET_GPU_NAMESPACE {

class VendorProducts;

struct PlanOptions {
  int processors = 0, warp = 32;
  // Must for more than 64 rows, may from 2 rows on; null, or gives null: there is none.
  std::function<VendorProducts*()> vendor{};
  bool timed = true;     // the products' kernels are chosen by timing, else by fixed rules
  std::string device{};  // what choices are remembered for: the card and its driver
  // Of the plans before: what has been chosen and whose kernels are loaded; the caller's.
  std::set<std::string>* settled = nullptr;
};

class DecoderPlan {
 public:
  // Null when the program is no decoder that these kernels take.
  static std::unique_ptr<DecoderPlan> make(const Program& program, const PlanOptions& options);
  virtual ~DecoderPlan() = default;

  // Which steps it launches, in their places.
  virtual bool takes(size_t step) const = 0;
  // What choosing has cost: keys that nothing was remembered for (kernel_choice.h), and seconds.
  struct Timed {
    int64_t keys = 0;
    double seconds = 0;
  };
  // Chooses the products' kernels, once; outside of any capture, with all values bound. It writes
  // to the scratch memory and to logits, nowhere else. Later launches are with what was chosen.
  virtual void choose(const std::vector<std::byte*>& data, GpuStream stream, Timed& timed) = 0;
  // Launches what the plan makes of this step: at its first step the layers, later the head; for
  // other steps that it takes nothing. `data`: of each value; the caller's until the next link.
  virtual GpuError launch(size_t step, const std::vector<std::byte*>& data, GpuStream stream) = 0;
  // Memory that is free between runs, which the caller gives once.
  virtual int64_t scratch_bytes() const = 0;
  virtual void give_scratch(std::byte* memory) = 0;
  // Memory whose bytes are all 0xff before the first run of any plan that shares it, and again
  // after each run: what blocks of one launch await from each other. The caller gives it once.
  virtual int64_t awaited_bytes() const = 0;
  virtual void give_awaited(std::byte* memory) = 0;
};

// Device memory of a RowsAttention (backend.h).
struct RowsInMemory {
  const std::byte *q, *pool, *positions, *row_sequence, *page_table;
  std::byte* out;
};
// Launches the attention of a plan of `rows` rows for every layer, between the clock's start and
// stop. False: no plan takes such rows.
bool time_attention(const RowsAttention& shape, const RowsInMemory& at, int processors,
                    GpuStream stream, Clock& clock);

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
