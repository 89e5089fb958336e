// What GPU kernels are given, and the one file that names both vendors. Kernels are written once
// (ops/<op>/<op>_gpu.cu) and compiled for each vendor, whose context is a type of its own, so that
// both can be linked into one program.
//
// HIP has two platforms: AMD's own, and one that is a thin layer over CUDA. With the second one the
// same backend runs on an NVIDIA card: what differs then is the interface, not the instructions.
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

// Whose instructions: NVIDIA's, by either interface, or AMD's; and the lanes of a warp, where code
// for the device is compiled (the host asks GpuContext::warp, since it serves every device).
#if defined(__HIP_PLATFORM_AMD__)
#define LIMPET_GPU_PTX 0
#else
#define LIMPET_GPU_PTX 1
#endif
// With LIMPET_GPU_PLAYED_WAVES two of NVIDIA's warps play one wave of 64 lanes, for tests.
#if defined(LIMPET_GPU_PLAYED_WAVES) || (defined(__HIP_PLATFORM_AMD__) && defined(__GFX9__))
#define LIMPET_GPU_LANES 64
#else
#define LIMPET_GPU_LANES 32
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

// Lanes of the device's warps.
inline int gpu_lanes(const GpuProperties& device) {
#if defined(LIMPET_GPU_PLAYED_WAVES)
  return 2 * device.warpSize;
#else
  return device.warpSize;
#endif
}

// Whether blocks can be launched as clusters, which read each other's shared memory; and whether
// all blocks of a launch can wait for each other (gpu_launch_together).
#if defined(LIMPET_GPU_HIP)
constexpr bool kGpuClusters = false, kGpuTogether = false;
#else
constexpr bool kGpuClusters = true, kGpuTogether = true;
#endif

// The calls whose names or arguments differ.
inline GpuError gpu_instantiate(GpuGraphExec* to, GpuGraph graph) {
#if defined(LIMPET_GPU_HIP)
  return hipGraphInstantiate(to, graph, nullptr, nullptr, 0);
#else
  return cudaGraphInstantiate(to, graph, 0);
#endif
}
// Brings a graph to the device, which its first launch would do otherwise.
inline void gpu_upload(GpuGraphExec graph, GpuStream stream) {
#if defined(LIMPET_GPU_HIP)
  (void)graph, (void)stream;
#else
  // What fails here is what the launch would say; the step must not find it.
  if (cudaGraphUpload(graph, stream) != cudaSuccess) (void)cudaGetLastError();
#endif
}
inline GpuError gpu_allocate_pinned(void** to, size_t bytes) {
#if defined(LIMPET_GPU_HIP)
  return hipHostMalloc(to, bytes, 0);
#else
  return cudaHostAlloc(to, bytes, 0);
#endif
}
inline GpuError gpu_free_pinned(void* at) {
#if defined(LIMPET_GPU_HIP)
  return hipHostFree(at);
#else
  return cudaFreeHost(at);
#endif
}

#if defined(__CUDACC__) || defined(__HIPCC__)
// shared: bytes that the launch adds to the kernel's own; cluster: blocks along x, 1 where there
// are none; early: whether it may begin before its predecessor has ended (no promise).
struct GpuGrid {
  dim3 blocks;
  unsigned threads = 1, cluster = 1;
  size_t shared = 0;
  bool early = false;
};
// Lets a kernel be launched with so much shared memory.
template <class... P>
GpuError gpu_allow_shared(void (*kernel)(P...), size_t bytes) {
  if (bytes <= 48 * 1024) return LIMPET_GPU(Success);
#if defined(LIMPET_GPU_HIP)
  return hipFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             hipFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
#else
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
#endif
}
template <class... P>
GpuError gpu_launch(void (*kernel)(P...), const GpuGrid& g, GpuStream stream, P... args) {
  if (g.cluster != 1 && !kGpuClusters) return LIMPET_GPU(ErrorInvalidValue);
  if (const GpuError error = gpu_allow_shared(kernel, g.shared); error != LIMPET_GPU(Success)) {
    return error;
  }
#if defined(LIMPET_GPU_HIP)
  kernel<<<g.blocks, g.threads, g.shared, stream>>>(args...);
  return hipGetLastError();
#else
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  if (g.early) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (g.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = g.cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = g.blocks;
  config.blockDim = dim3(g.threads);
  config.dynamicSmemBytes = g.shared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, args...);
#endif
}

// All blocks at once, or an error: they may wait for each other (kGpuTogether).
template <class... P>
GpuError gpu_launch_together(void (*kernel)(P...), dim3 blocks, unsigned threads, size_t shared,
                             GpuStream stream, P... args) {
#if defined(LIMPET_GPU_HIP)
  return hipErrorNotSupported;
#else
  const GpuError error = gpu_allow_shared(kernel, shared);
  if (error != cudaSuccess) return error;
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&args))...};
  return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), blocks, dim3(threads),
                                     pointers, shared, stream);
#endif
}
#endif

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
