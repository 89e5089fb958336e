// What GPU kernels are given, and the one file that names both vendors. Kernels are written once
// (ops/<op>/<op>_gpu.cu) and compiled for each vendor, whose context is a type of its own, so that
// both can be linked into one program.
#pragma once
#if defined(LIMPET_GPU_HIP)
#include <hip/hip_runtime.h>
#define LIMPET_GPU(name) hip##name
#define LIMPET_GPU_NAMESPACE hip_gpu
#define LIMPET_GPU_CONTEXT HipContext
#else
#include <cuda_runtime.h>
#define LIMPET_GPU(name) cuda##name
#define LIMPET_GPU_NAMESPACE cuda_gpu
#define LIMPET_GPU_CONTEXT CudaContext
#endif

#include <cstddef>
#include <cstdint>

#include "ops/op.h"

namespace limpet {

// What depends on the vendor has a namespace of the vendor's, so that names never meet.

// The device, as one op sees it. Launches go to `stream`, which is being captured most of the
// time: no kernel's host code may allocate, copy, synchronize or read device memory. What a launch
// depends on is in shapes and ops; true counts, lengths and tables are read on the device.
inline namespace LIMPET_GPU_NAMESPACE {

using GpuStream = LIMPET_GPU(Stream_t);
using GpuEvent = LIMPET_GPU(Event_t);
using GpuError = LIMPET_GPU(Error_t);
using GpuGraph = LIMPET_GPU(Graph_t);
using GpuGraphExec = LIMPET_GPU(GraphExec_t);

#if defined(LIMPET_GPU_HIP)
using GpuProperties = hipDeviceProp_t;
#else
using GpuProperties = cudaDeviceProp;
#endif

// The one call whose arguments differ between the vendors' versions.
inline GpuError gpu_instantiate(GpuGraphExec* to, GpuGraph graph) {
#if defined(LIMPET_GPU_HIP)
  return hipGraphInstantiate(to, graph, nullptr, nullptr, 0);
#else
  return cudaGraphInstantiate(to, graph, 0);
#endif
}

class LIMPET_GPU_CONTEXT {
 public:
  virtual ~LIMPET_GPU_CONTEXT() = default;
  GpuStream stream{};
  int processors = 0;  // multiprocessors, compute units
  int warp = 32;       // lanes of a warp (a wave)
  // Device memory that the op may use until its last launch has run, 256-byte aligned. The next op
  // overwrites it. Each call within an op takes more.
  virtual void* scratch(size_t bytes) = 0;
};
using GpuContext = LIMPET_GPU_CONTEXT;

// Unless all is well: std::runtime_error when memory has run out, else DeviceLost (backend.h).
void gpu_check(GpuError error, const char* what);

}  // namespace LIMPET_GPU_NAMESPACE

namespace ops {

void run(const Add& op, GpuContext& gpu, const Args& args);
void run(const Advance& op, GpuContext& gpu, const Args& args);
void run(const Embedding& op, GpuContext& gpu, const Args& args);
void run(const GatedLinear& op, GpuContext& gpu, const Args& args);
void run(const GatherRows& op, GpuContext& gpu, const Args& args);
void run(const Linear& op, GpuContext& gpu, const Args& args);
void run(const PagedAttention& op, GpuContext& gpu, const Args& args);
void run(const RmsNorm& op, GpuContext& gpu, const Args& args);
void run(const RopeAppend& op, GpuContext& gpu, const Args& args);
void run(const RopeTable& op, GpuContext& gpu, const Args& args);
void run(const Sample& op, GpuContext& gpu, const Args& args);
void run(const SiluMul& op, GpuContext& gpu, const Args& args);

}  // namespace ops
}  // namespace limpet
