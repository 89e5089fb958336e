// What each backend's folder, or its no_<kind>.cpp, defines. For make_backend.cpp.
#pragma once
#include <memory>

#include "backends/make_backend.h"

namespace limpet {

std::unique_ptr<Backend> make_cpu_backend(const Device& device, const BackendOptions& options);
std::unique_ptr<Backend> make_cuda_backend(const Device& device, const BackendOptions& options);
std::unique_ptr<Backend> make_hip_backend(const Device& device, const BackendOptions& options);
std::unique_ptr<Backend> make_vulkan_backend(const Device& device, const BackendOptions& options);
std::unique_ptr<Backend> make_metal_backend(const Device& device, const BackendOptions& options);
std::unique_ptr<Backend> make_mlx_backend(const Device& device, const BackendOptions& options);
std::unique_ptr<Backend> make_webgpu_backend(const Device& device, const BackendOptions& options);

// std::runtime_error that names the CMake option that builds the backend.
[[noreturn]] void throw_not_built(DeviceKind kind, const char* option);

}  // namespace limpet
