#include "clients/cli/line_ids.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace limpet::client {
namespace {

constexpr uint64_t kFirst = 64;
constexpr uint64_t kFlags = 7;

}  // namespace

LineIds::LineIds(const std::string& folder)
    : folder_(folder.empty() ? "." : folder), table_(make(kFirst)) {}

LineIds::~LineIds() { drop(table_); }

LineIds::Table LineIds::make(uint64_t count) const {
  std::string name = folder_ + "/.limpet-batch-XXXXXX";
  const auto bytes = count * sizeof(Slot);
  const int file = ::mkstemp(name.data());
  int error = file < 0 ? errno : 0;
  if (file >= 0) ::unlink(name.c_str());
  // All room is asked for now: a page that the disk refused later would end the process.
  if (error == 0) error = ::posix_fallocate(file, 0, static_cast<off_t>(bytes));
  void* at = MAP_FAILED;
  if (error == 0) {
    at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) error = errno;
  }
  if (file >= 0) ::close(file);
  if (error != 0) {
    throw std::runtime_error("no room in " + folder_ + " to remember " + std::to_string(count) +
                             " lines: " + std::strerror(error));
  }
  return {static_cast<Slot*>(at), count};
}

void LineIds::drop(const Table& table) {
  if (table.slots != nullptr) ::munmap(table.slots, table.count * sizeof(Slot));
}

LineIds::Slot& LineIds::find(const Table& table, uint64_t low, uint64_t high) {
  for (uint64_t at = high & (table.count - 1);; at = (at + 1) & (table.count - 1)) {
    Slot& slot = table.slots[at];
    const bool free = slot.low == 0 && slot.high == 0;
    if (free || ((slot.low & ~kFlags) == low && slot.high == high)) return slot;
  }
}

void LineIds::grow() {
  const Table larger = make(table_.count * 2);
  for (uint64_t i = 0; i < table_.count; ++i) {
    const Slot& slot = table_.slots[i];
    if ((slot.low & kFlags) != 0) find(larger, slot.low & ~kFlags, slot.high) = slot;
  }
  drop(table_);
  table_ = larger;
}

uint8_t LineIds::mark(std::string_view key, uint8_t flag) {
  if (used_ * 3 > table_.count * 2) grow();
  const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
  const uint64_t low = hash.low64 & ~kFlags;
  Slot& slot = find(table_, low, hash.high64);
  const auto before = static_cast<uint8_t>(slot.low & kFlags);
  if (before == 0) ++used_;
  slot = {low | before | flag, hash.high64};
  return before;
}

}  // namespace limpet::client
