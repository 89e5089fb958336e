#include "backends/gpu/vendor_product.h"

#include <dlfcn.h>

#include <array>
#include <string>
#include <vector>

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

// The part of cuBLASLt's C interface that is used here (cublasLt.h of CUDA 12 and 13; its values
// are fixed by its binary interface).
using Handle = void*;
using Descriptor = void*;
using Layout = void*;
using Preference = void*;
struct Algorithm {
  std::array<uint64_t, 8> data;
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  std::array<int, 4> reserved;
};
constexpr int kNoMemory = 3, kBadValue = 7, kNotOfThisDevice = 8, kNotSupported = 15;
constexpr int kSuccess = 0, kCompute32 = 68, kFloat = 0, kBf16 = 14, kTransposed = 1;
constexpr int kTransposeA = 3, kMostWorkspace = 1;
constexpr const char* kLibraries[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

struct Library {
  int (*create)(Handle*) = nullptr;
  int (*destroy)(Handle) = nullptr;
  size_t (*version)() = nullptr;
  int (*descriptor)(Descriptor*, int compute, int scale) = nullptr;
  int (*set)(Descriptor, int attribute, const void*, size_t) = nullptr;
  int (*layout)(Layout*, int type, uint64_t rows, uint64_t columns, int64_t stride) = nullptr;
  int (*preference)(Preference*) = nullptr;
  int (*prefer)(Preference, int attribute, const void*, size_t) = nullptr;
  int (*choose)(Handle, Descriptor, Layout, Layout, Layout, Layout, Preference, int wanted,
                Heuristic*, int* found) = nullptr;
  int (*multiply)(Handle, Descriptor, const void* alpha, const void* a, Layout, const void* b,
                  Layout, const void* beta, const void* c, Layout, void* d, Layout,
                  const Algorithm*, void* workspace, size_t bytes, GpuStream) = nullptr;
  int (*free_descriptor)(Descriptor) = nullptr;
  int (*free_layout)(Layout) = nullptr;
  int (*free_preference)(Preference) = nullptr;

  bool load(std::string* reason) {
    void* library = nullptr;
    for (const char* name : kLibraries) {
      if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (library == nullptr) {
      *reason = std::string(kLibraries[0]) + " (cuBLAS of CUDA 13, or of 12) is not on the library"
                " path";
      return false;
    }
    bool all = true;
    const auto find = [&](auto& function, const char* name) {
      using Function = std::remove_reference_t<decltype(function)>;
      function = reinterpret_cast<Function>(dlsym(library, name));
      all = all && function != nullptr;
    };
    find(create, "cublasLtCreate");
    find(destroy, "cublasLtDestroy");
    find(version, "cublasLtGetVersion");
    find(descriptor, "cublasLtMatmulDescCreate");
    find(set, "cublasLtMatmulDescSetAttribute");
    find(layout, "cublasLtMatrixLayoutCreate");
    find(preference, "cublasLtMatmulPreferenceCreate");
    find(prefer, "cublasLtMatmulPreferenceSetAttribute");
    find(choose, "cublasLtMatmulAlgoGetHeuristic");
    find(multiply, "cublasLtMatmul");
    find(free_descriptor, "cublasLtMatmulDescDestroy");
    find(free_layout, "cublasLtMatrixLayoutDestroy");
    find(free_preference, "cublasLtMatmulPreferenceDestroy");
    if (!all) *reason = "cuBLASLt lacks a function that is needed";
    return all;
  }
};

class CublasLt final : public VendorProducts {
 public:
  CublasLt(const Library& library, Handle handle, void* workspace, size_t bytes)
      : lt_(library), handle_(handle), workspace_(workspace), workspace_bytes_(bytes) {}
  ~CublasLt() override {
    for (const Shape& p : shapes_) release(p);
    lt_.destroy(handle_);
  }
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  std::vector<int> plans(const VendorProduct& product) override {
    size_t at = 0;
    while (at < shapes_.size() && shapes_[at].product != product) ++at;
    if (at == shapes_.size()) {
      Shape made{.product = product};
      if (!make(made)) {
        release(made);
        made = {.product = product};  // remembered, too: nothing for it
      }
      shapes_.push_back(made);
    }
    std::vector<int> numbers;
    for (int i = 0; i < shapes_[at].count; ++i) {
      numbers.push_back(static_cast<int>(at) * kMostPlans + i);
    }
    return numbers;
  }
  // Column-major to the library: yᵀ [n, rows] = weight [n, k] · xᵀ [k, rows].
  GpuError run(int plan, const void* x, const void* weight, void* y, GpuStream stream) override {
    const Shape& p = shapes_.at(static_cast<size_t>(plan / kMostPlans));
    const float one = 1.0f, old = p.product.accumulate ? 1.0f : 0.0f;
    const int status = lt_.multiply(
        handle_, p.what, &one, weight, p.a, x, p.b, &old, y, p.y, y, p.y,
        &p.algorithms.at(static_cast<size_t>(plan % kMostPlans)), workspace_, workspace_bytes_,
        stream);
    switch (status) {
      case kSuccess: return cudaSuccess;
      case kNoMemory: return cudaErrorMemoryAllocation;
      case kBadValue: case kNotSupported: return cudaErrorInvalidValue;
      case kNotOfThisDevice: return cudaErrorNoKernelImageForDevice;
      default: return cudaErrorLaunchFailure;
    }
  }
  std::string version() const override { return "cublaslt " + std::to_string(lt_.version()); }

 private:
  struct Shape {
    VendorProduct product;
    Descriptor what = nullptr;
    Layout a = nullptr, b = nullptr, y = nullptr;
    std::array<Algorithm, kMostPlans> algorithms{};
    int count = 0;
  };
  bool make(Shape& p) {
    const VendorProduct& v = p.product;
    const auto n = static_cast<uint64_t>(v.n), k = static_cast<uint64_t>(v.k);
    const auto rows = static_cast<uint64_t>(v.rows);
    if (lt_.descriptor(&p.what, kCompute32, kFloat) != kSuccess ||
        lt_.set(p.what, kTransposeA, &kTransposed, sizeof kTransposed) != kSuccess ||
        lt_.layout(&p.a, kBf16, k, n, v.weight_stride) != kSuccess ||
        lt_.layout(&p.b, kBf16, k, rows, v.k) != kSuccess ||
        lt_.layout(&p.y, v.f32_output ? kFloat : kBf16, n, rows, v.n) != kSuccess) {
      return false;
    }
    Preference preference = nullptr;
    std::array<Heuristic, kMostPlans> found{};
    int count = 0;
    const bool chosen =
        lt_.preference(&preference) == kSuccess &&
        lt_.prefer(preference, kMostWorkspace, &workspace_bytes_, sizeof workspace_bytes_) ==
            kSuccess &&
        lt_.choose(handle_, p.what, p.a, p.b, p.y, p.y, preference, kMostPlans, found.data(),
                   &count) == kSuccess;
    if (preference != nullptr) lt_.free_preference(preference);
    for (int i = 0; chosen && i < count; ++i) {
      const Heuristic& h = found[static_cast<size_t>(i)];
      if (h.state != kSuccess || h.workspace_bytes > workspace_bytes_) continue;
      p.algorithms[static_cast<size_t>(p.count++)] = h.algorithm;
    }
    return p.count > 0;
  }
  void release(const Shape& p) const {
    if (p.what != nullptr) lt_.free_descriptor(p.what);
    for (Layout l : {p.a, p.b, p.y}) {
      if (l != nullptr) lt_.free_layout(l);
    }
  }

  const Library lt_;
  const Handle handle_;
  void* const workspace_;
  const size_t workspace_bytes_;
  std::vector<Shape> shapes_;
};

}  // namespace

std::unique_ptr<VendorProducts> VendorProducts::open(void* workspace, size_t workspace_bytes,
                                                     std::string* reason) {
  Library library;
  Handle handle = nullptr;
  if (!library.load(reason)) return nullptr;
  if (library.create(&handle) != kSuccess) {
    *reason = "cuBLASLt does not start on this device";
    return nullptr;
  }
  return std::make_unique<CublasLt>(library, handle, workspace, workspace_bytes);
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
