// An SQLite VFS that notices when a file no longer holds what was written to it. SQLite itself
// checks its write-ahead log while it recovers, and nothing else.
//
// Each page of the database ends in a checksum of it and of its number (8 bytes that SQLite leaves
// free, by its reserve of bytes), which is written and verified here; so a flipped bit, a torn page
// and one that was written elsewhere are found when the page is read. A page of the write-ahead log
// is verified against its frame's own checksum. What does not match is not given: the read fails
// with SQLITE_IOERR_DATA, and damage() names the place.
//
// A file of an older version of the store, or of somebody else, is read as it is. One object for
// each connection; its calls come on the connection's thread.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace limpet::broker {

inline constexpr int kPageBytes = 4096;
inline constexpr int kPageChecksumBytes = 8;  // SQLite's reserve of each page

class CheckedVfs {
 public:
  CheckedVfs();  // on top of what is SQLite's default
  ~CheckedVfs();
  CheckedVfs(const CheckedVfs&) = delete;
  CheckedVfs& operator=(const CheckedVfs&) = delete;

  const char* name() const;     // for sqlite3_open_v2
  std::string damage() const;   // the last that was found: "page 17 of FILE"; empty: none

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

// SQLite's checksum of a write-ahead log over words of this machine, going on from `sum`.
struct WalSum {
  uint32_t a = 0, b = 0;
  bool operator==(const WalSum&) const = default;
};
WalSum wal_sum(WalSum sum, const unsigned char* bytes, size_t n);  // n: a multiple of 8

}  // namespace limpet::broker
