// Pages of KV in a file: a cache, not truth. The file has no name once it is open, so it is gone
// with the process however that ends. Each page's checksum is remembered, and a page that does not
// match it is not given. Any thread, but one at a time for a page; plain functions of the file
// system, which wait.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace limpet::worker {

class TierFile {
 public:
  // Room for so many pages in `folder`, which is made when it is missing. Throws
  // std::runtime_error that says what to do.
  TierFile(const std::string& folder, int64_t page_bytes, int64_t pages);
  ~TierFile();
  TierFile(const TierFile&) = delete;
  TierFile& operator=(const TierFile&) = delete;

  // Why not; empty: done.
  std::string write(int32_t page, std::span<const std::byte> from);
  std::string read(int32_t page, std::span<std::byte> to);
  int descriptor() const { return file_; }

 private:
  int file_ = -1;
  int64_t page_bytes_;
  std::vector<uint64_t> sums_;
};

}  // namespace limpet::worker
