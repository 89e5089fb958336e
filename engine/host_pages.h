// Pages of host memory below the KV pool, and copies between the two beside the steps. Owned and
// driven by the engine's thread.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "engine/engine.h"

namespace limpet::engine {

class HostPages {
 public:
  HostPages(Backend& backend, int64_t page_bytes) : backend_(backend), page_bytes_(page_bytes) {}

  // Once. Throws std::runtime_error when there is not so much memory.
  void make(int64_t pages);
  std::span<std::byte> at(int32_t page);
  // Neighbours move as one. Their number.
  uint64_t begin(Buffer& pool, bool to_device, std::span<const HostMove> moves);

 private:
  Backend& backend_;
  int64_t page_bytes_;
  int64_t pages_ = 0;
  std::unique_ptr<HostBuffer> memory_;
  std::vector<SideCopy> copies_;
};

}  // namespace limpet::engine
