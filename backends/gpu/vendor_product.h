// x · weightᵀ for many rows, by the device vendor's library, for prefill: cuBLASLt; HIP opens none.
//
// The library is found when it is needed, not linked: the program builds and runs without it, and
// then open() gives nothing. Plans are made outside of any capture; run() only enqueues. One thread
// at a time.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "ops/gpu.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

struct VendorProduct {
  int64_t rows = 0, n = 0, k = 0;
  int64_t weight_stride = 0;  // elements between rows of the weight
  bool f32_output = false;    // y f32, else bf16
  bool accumulate = false;    // y += x · weightᵀ
  bool operator==(const VendorProduct&) const = default;
};

class VendorProducts {
 public:
  virtual ~VendorProducts() = default;
  // `workspace`: device memory of workspace_bytes that products of one stream share; the caller's.
  // Null, with a reason, when the library is not there.
  static std::unique_ptr<VendorProducts> open(void* workspace, size_t workspace_bytes,
                                              std::string* reason);
  // Numbers for run(), of at most kMostPlans algorithms, the best by the library's own estimate
  // first; none when it has nothing for the shape. Equal shapes share them.
  static constexpr int kMostPlans = 8;
  virtual std::vector<int> plans(const VendorProduct& product) = 0;
  // x bf16 [rows, k], weight bf16 [n, k], y [rows, n], dense. What the library's status means as
  // an error of the device's.
  virtual GpuError run(int plan, const void* x, const void* weight, void* y,
                       GpuStream stream) = 0;
  // Of the library, for what is remembered of its algorithms.
  virtual std::string version() const = 0;
};

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
