// Zeroed host memory aligned for vectors, in large pages where the system offers them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace limpet {

class HostMemory {
 public:
  HostMemory() = default;
  explicit HostMemory(int64_t bytes);  // std::runtime_error when there is none
  ~HostMemory();
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace limpet
