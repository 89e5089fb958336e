// SQLite's write-ahead log as it lies in its file, for pages of kPageBytes. Numbers are big-endian;
// the sums are over words of this machine. https://www.sqlite.org/fileformat2.html#walformat
#pragma once
#include <bit>
#include <cstdint>

#include "broker/checked_vfs.h"

namespace limpet::broker {

static_assert(std::endian::native == std::endian::little);  // the magic number below says so
inline constexpr uint32_t kWalMagic = 0x377f0682, kWalVersion = 3007000;
inline constexpr int kWalHeaderBytes = 32, kFrameHeaderBytes = 24;
inline constexpr int kWalFrameBytes = kFrameHeaderBytes + kPageBytes;
// Of the header: magic, version, page size, checkpoint, two salts, sum of what is before it.
inline constexpr int kWalSaltAt = 16, kWalHeaderSumAt = 24;
// Of a frame: page, size of the database after a commit (else 0), two salts, and the sum of the
// first 8 bytes and the page, going on from the frame before.
inline constexpr int kFrameCommitAt = 4, kFrameSaltAt = 8, kFrameSumAt = 16;

inline uint32_t wal_word(const unsigned char* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | p[3];
}
inline WalSum stored_sum(const unsigned char* p) { return {wal_word(p), wal_word(p + 4)}; }

}  // namespace limpet::broker
