// Owned memory: the device's, and the host's pinned. Null and 0 bytes when empty.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "ops/gpu.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(int64_t bytes);  // not cleared; std::runtime_error when there is none
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(int64_t bytes);
  ~PinnedMemory();
  PinnedMemory(PinnedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedMemory& operator=(PinnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Memory that one program uses while it runs and the next may overwrite: programs share the
// largest piece that any has asked for. A piece lives as long as one of them.
class SharedMemory {
 public:
  // prepare: what is done with a new piece before anyone has it.
  std::shared_ptr<DeviceMemory> at_least(
      int64_t bytes, const std::function<void(const DeviceMemory&)>& prepare = {}) {
    if (largest_ == nullptr || largest_->bytes() < bytes) {
      auto piece = std::make_shared<DeviceMemory>(bytes);
      if (prepare) prepare(*piece);
      largest_ = std::move(piece);
    }
    return largest_;
  }
  std::shared_ptr<DeviceMemory> largest() const { return largest_; }

 private:
  std::shared_ptr<DeviceMemory> largest_;
};

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
