#include "worker/tier_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>

namespace limpet::worker {
namespace {

// The page's number is part of it: one that was written elsewhere is no other's.
uint64_t checksum(std::span<const std::byte> bytes, int32_t page) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), static_cast<uint64_t>(page));
}

}  // namespace

TierFile::TierFile(const std::string& folder, int64_t page_bytes, int64_t pages)
    : page_bytes_(page_bytes), sums_(static_cast<size_t>(pages)) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  std::string path = folder + "/limpet-kv-XXXXXX";
  file_ = mkostemp(path.data(), O_CLOEXEC);
  if (file_ < 0) {
    throw std::runtime_error("cannot make a file for KV in " + folder + " (" +
                             std::strerror(errno) + "); name another folder: --kv-disk-dir");
  }
  unlink(path.c_str());
}

TierFile::~TierFile() { close(file_); }

std::string TierFile::write(int32_t page, std::span<const std::byte> from) {
  const auto at = static_cast<off_t>(page) * page_bytes_;
  for (size_t done = 0; done < from.size();) {
    const ssize_t n = pwrite(file_, from.data() + done, from.size() - done,
                             at + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::string("writing KV to disk: ") + std::strerror(errno);
    done += static_cast<size_t>(n);
  }
  sums_.at(static_cast<size_t>(page)) = checksum(from, page);
  return "";
}

std::string TierFile::read(int32_t page, std::span<std::byte> to) {
  const auto at = static_cast<off_t>(page) * page_bytes_;
  for (size_t done = 0; done < to.size();) {
    const ssize_t n =
        pread(file_, to.data() + done, to.size() - done, at + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::string("reading KV from disk: ") + std::strerror(errno);
    if (n == 0) return "a page of KV on disk is cut off";
    done += static_cast<size_t>(n);
  }
  if (checksum(to, page) != sums_.at(static_cast<size_t>(page))) {
    return "a page of KV on disk is damaged: its checksum differs";
  }
  return "";
}

}  // namespace limpet::worker
