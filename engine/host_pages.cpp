#include "engine/host_pages.h"

#include <stdexcept>
#include <string>

namespace limpet::engine {
namespace {

constexpr int64_t kLargestCopy = 64 << 20;  // so that what follows need not wait for long

}  // namespace

void HostPages::make(int64_t pages) {
  if (memory_ != nullptr || pages < 0) throw std::logic_error("host pages are made once");
  try {
    memory_ = backend_.allocate_host(pages * page_bytes_);
  } catch (const DeviceLost&) {
    throw;
  } catch (const std::runtime_error& e) {
    throw std::runtime_error("no " + std::to_string(pages * page_bytes_) +
                             " bytes of host memory for KV below the device (" + e.what() +
                             "); give fewer");
  }
  pages_ = pages;
}

std::span<std::byte> HostPages::at(int32_t page) {
  if (page < 0 || page >= pages_) throw std::logic_error("no such page of host memory");
  return memory_->bytes().subspan(static_cast<size_t>(page * page_bytes_),
                                  static_cast<size_t>(page_bytes_));
}

uint64_t HostPages::begin(Buffer& pool, bool to_device, std::span<const HostMove> moves) {
  copies_.clear();
  for (size_t i = 0; i < moves.size(); ++i) {
    const HostMove& m = moves[i];
    const bool next = i > 0 && m.pool_page == moves[i - 1].pool_page + 1 &&
                      m.host_page == moves[i - 1].host_page + 1;
    const auto host = at(m.host_page);
    if (next && copies_.back().bytes + page_bytes_ <= kLargestCopy) {
      copies_.back().bytes += page_bytes_;
    } else {
      copies_.push_back({m.pool_page * page_bytes_, host.data(), page_bytes_});
    }
  }
  return backend_.begin_side_copies(pool, to_device, copies_);
}

}  // namespace limpet::engine
