// HIP 5.2's NVIDIA platform was written for CUDA 11, and CUDA 13 has dropped or changed some of
// what its headers mention. Read before them, this gives those names a meaning for as long as they
// are read. None of them is called by this backend, but for the device's properties.
#pragma once
#include <cuda.h>
#include <cuda_fp16.h>
#include <cuda_profiler_api.h>
#include <cuda_runtime.h>

#if CUDART_VERSION >= 13000

namespace limpet_hip_headers {

// Fields that are attributes now; nobody here reads them.
struct Properties : cudaDeviceProp {
  int clockRate = 0, memoryClockRate = 0, computeMode = 0;
  int kernelExecTimeoutEnabled = 0, cooperativeMultiDeviceLaunch = 0;
};
template <class T, int dimensions, cudaTextureReadMode mode>
struct Texture {};
template <class... Any>
cudaError_t gone(const Any&...) {
  return cudaErrorNotSupported;
}
template <class... Any>
CUresult gone_from_driver(const Any&...) {
  return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace limpet_hip_headers

#define cudaDeviceProp limpet_hip_headers::Properties
#define cudaMemAdvise limpet_hip_headers::gone
#define cudaMemPrefetchAsync limpet_hip_headers::gone
#define cudaDevAttrCooperativeMultiDeviceLaunch cudaDevAttrReserved96
#define cudaBindTexture limpet_hip_headers::gone
#define cudaBindTexture2D limpet_hip_headers::gone
#define cudaUnbindTexture limpet_hip_headers::gone
#define cudaGetTextureAlignmentOffset limpet_hip_headers::gone
#define cudaLaunchCooperativeKernelMultiDevice limpet_hip_headers::gone
#define cudaGraphAddDependencies limpet_hip_headers::gone
#define cudaGraphRemoveDependencies limpet_hip_headers::gone
#define cudaGraphGetEdges limpet_hip_headers::gone
#define cudaGraphNodeGetDependencies limpet_hip_headers::gone
#define cudaGraphNodeGetDependentNodes limpet_hip_headers::gone
#define cudaStreamGetCaptureInfo_v2 limpet_hip_headers::gone
#define cudaStreamUpdateCaptureDependencies limpet_hip_headers::gone
#define texture limpet_hip_headers::Texture
#pragma push_macro("cuCtxCreate")
#undef cuCtxCreate
#define cuCtxCreate limpet_hip_headers::gone_from_driver
#endif

#include <hip/hip_runtime.h>

#if CUDART_VERSION >= 13000
#undef cudaDeviceProp
#undef cudaMemAdvise
#undef cudaMemPrefetchAsync
#undef cudaDevAttrCooperativeMultiDeviceLaunch
#undef cudaBindTexture
#undef cudaBindTexture2D
#undef cudaUnbindTexture
#undef cudaGetTextureAlignmentOffset
#undef cudaLaunchCooperativeKernelMultiDevice
#undef cudaGraphAddDependencies
#undef cudaGraphRemoveDependencies
#undef cudaGraphGetEdges
#undef cudaGraphNodeGetDependencies
#undef cudaGraphNodeGetDependentNodes
#undef cudaStreamGetCaptureInfo_v2
#undef cudaStreamUpdateCaptureDependencies
#undef texture
#pragma pop_macro("cuCtxCreate")
#endif
