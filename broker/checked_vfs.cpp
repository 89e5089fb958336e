#include "broker/checked_vfs.h"

#include <sqlite3.h>
#include <xxhash.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <vector>

#include "broker/wal_format.h"

namespace limpet::broker {

struct CheckedVfs::Impl {
  sqlite3_vfs vfs{};
  sqlite3_vfs* below = nullptr;
  std::string name, damage;
  std::vector<unsigned char> page = std::vector<unsigned char>(kPageBytes);
};

namespace {

enum class Kind : uint8_t { other, database, wal };

// SQLite allocates it with room for the file below after it.
struct File {
  sqlite3_file base;
  CheckedVfs::Impl* owner;
  const char* path;
  Kind kind;
  sqlite3_file* below() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};

File* of(sqlite3_file* f) { return reinterpret_cast<File*>(f); }
sqlite3_file* below(sqlite3_file* f) { return of(f)->below(); }
CheckedVfs::Impl* of(sqlite3_vfs* v) { return static_cast<CheckedVfs::Impl*>(v->pAppData); }

int damaged(File* f, const std::string& place) {
  f->owner->damage = place + " of " + std::filesystem::path(f->path).filename().string();
  return SQLITE_IOERR_DATA;
}

uint64_t page_checksum(const unsigned char* page, int64_t number) {
  return XXH3_64bits_withSeed(page, kPageBytes - kPageChecksumBytes,
                              static_cast<XXH64_hash_t>(number));
}

int check_page(File* f, const unsigned char* page, sqlite3_int64 offset) {
  const int64_t number = offset / kPageBytes + 1;
  uint64_t stored = 0;
  std::memcpy(&stored, page + kPageBytes - kPageChecksumBytes, sizeof(stored));
  if (stored == page_checksum(page, number)) return SQLITE_OK;
  return damaged(f, "page " + std::to_string(number));
}

// The frame's header lies before the page, the checksum that it goes on from in the frame before
// that, or in the log's header.
int check_frame(File* f, const unsigned char* page, sqlite3_int64 offset) {
  const int64_t index = (offset - kWalHeaderBytes) / kWalFrameBytes;
  const int64_t at = kWalHeaderBytes + index * kWalFrameBytes;
  const int64_t sum_at = index == 0 ? kWalHeaderSumAt : at - kWalFrameBytes + kFrameSumAt;
  std::array<unsigned char, kFrameHeaderBytes> header;
  std::array<unsigned char, 8> before;
  sqlite3_file* file = f->below();
  int rc = file->pMethods->xRead(file, header.data(), kFrameHeaderBytes, at);
  if (rc == SQLITE_OK) rc = file->pMethods->xRead(file, before.data(), 8, sum_at);
  if (rc != SQLITE_OK) return rc;
  const WalSum sum =
      wal_sum(wal_sum(stored_sum(before.data()), header.data(), 8), page, kPageBytes);
  if (sum == stored_sum(header.data() + kFrameSumAt)) return SQLITE_OK;
  return damaged(f, "frame " + std::to_string(index + 1));
}

int read(sqlite3_file* file, void* to, int bytes, sqlite3_int64 offset) {
  File* f = of(file);
  const int rc = f->below()->pMethods->xRead(f->below(), to, bytes, offset);
  if (rc != SQLITE_OK || bytes < 512) return rc;  // less than a page: looked at again as a whole
  const auto* page = static_cast<const unsigned char*>(to);
  if (f->kind == Kind::database) {
    if (bytes != kPageBytes || offset % kPageBytes != 0) return damaged(f, "the header");
    return check_page(f, page, offset);
  }
  if (f->kind == Kind::wal && bytes == kPageBytes) return check_frame(f, page, offset);
  return rc;  // whole frames: SQLite verifies them while it recovers
}

int write(sqlite3_file* file, const void* from, int bytes, sqlite3_int64 offset) {
  File* f = of(file);
  if (f->kind == Kind::database && bytes == kPageBytes) {
    unsigned char* page = f->owner->page.data();
    std::memcpy(page, from, kPageBytes - kPageChecksumBytes);
    const uint64_t sum = page_checksum(page, offset / kPageBytes + 1);
    std::memcpy(page + kPageBytes - kPageChecksumBytes, &sum, sizeof(sum));
    from = page;
  }
  return f->below()->pMethods->xWrite(f->below(), from, bytes, offset);
}

uint32_t big(const unsigned char* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | p[3];
}

// Whether a database's pages have checksums: not those of a store before version 4, or of another
// program. One flipped bit of the header alone cannot make a file of ours look like either.
bool has_checksums(File* f) {
  std::array<unsigned char, 100> h{};
  if (f->below()->pMethods->xRead(f->below(), h.data(), 100, 0) != SQLITE_OK) return true;  // new
  constexpr int kReserve = 20, kVersion = 60, kApplication = 68;
  if (std::memcmp(h.data(), "SQLite format 3", 16) != 0) return h[kReserve] == kPageChecksumBytes;
  const bool older = big(&h[kVersion]) < 4 || big(&h[kApplication]) != 0x4c4d5054;
  return !(older && h[kReserve] == 0);
}

const sqlite3_io_methods kMethods = {
    2,  // without memory mapping, which would go past us
    [](sqlite3_file* f) { return below(f)->pMethods->xClose(below(f)); },
    read,
    write,
    [](sqlite3_file* f, sqlite3_int64 n) { return below(f)->pMethods->xTruncate(below(f), n); },
    [](sqlite3_file* f, int flags) { return below(f)->pMethods->xSync(below(f), flags); },
    [](sqlite3_file* f, sqlite3_int64* n) { return below(f)->pMethods->xFileSize(below(f), n); },
    [](sqlite3_file* f, int l) { return below(f)->pMethods->xLock(below(f), l); },
    [](sqlite3_file* f, int l) { return below(f)->pMethods->xUnlock(below(f), l); },
    [](sqlite3_file* f, int* r) { return below(f)->pMethods->xCheckReservedLock(below(f), r); },
    [](sqlite3_file* f, int op, void* arg) {
      return below(f)->pMethods->xFileControl(below(f), op, arg);
    },
    [](sqlite3_file* f) { return below(f)->pMethods->xSectorSize(below(f)); },
    [](sqlite3_file* f) { return below(f)->pMethods->xDeviceCharacteristics(below(f)); },
    [](sqlite3_file* f, int page, int size, int extend, void volatile** p) {
      return below(f)->pMethods->xShmMap(below(f), page, size, extend, p);
    },
    [](sqlite3_file* f, int offset, int n, int flags) {
      return below(f)->pMethods->xShmLock(below(f), offset, n, flags);
    },
    [](sqlite3_file* f) { below(f)->pMethods->xShmBarrier(below(f)); },
    [](sqlite3_file* f, int remove) { return below(f)->pMethods->xShmUnmap(below(f), remove); },
    nullptr,
    nullptr,
};

int open(sqlite3_vfs* vfs, const char* path, sqlite3_file* file, int flags, int* out) {
  CheckedVfs::Impl* owner = of(vfs);
  File* f = of(file);
  *f = {{nullptr}, owner, path, Kind::other};
  const int rc = owner->below->xOpen(owner->below, path, f->below(), flags, out);
  if (rc != SQLITE_OK) return rc;
  f->base.pMethods = &kMethods;
  if ((flags & SQLITE_OPEN_WAL) != 0) f->kind = Kind::wal;
  if ((flags & SQLITE_OPEN_MAIN_DB) != 0 && has_checksums(f)) f->kind = Kind::database;
  return rc;
}

}  // namespace

WalSum wal_sum(WalSum sum, const unsigned char* bytes, size_t n) {
  for (size_t i = 0; i < n; i += 8) {
    uint32_t x, y;
    std::memcpy(&x, bytes + i, 4);
    std::memcpy(&y, bytes + i + 4, 4);
    sum.a += x + sum.b;
    sum.b += y + sum.a;
  }
  return sum;
}

CheckedVfs::CheckedVfs() : impl_(std::make_unique<Impl>()) {
  Impl& m = *impl_;
  m.below = sqlite3_vfs_find(nullptr);
  m.name = "limpet-checked-" + std::to_string(reinterpret_cast<uintptr_t>(&m));
  m.vfs = *m.below;
  m.vfs.iVersion = 2;
  m.vfs.szOsFile = static_cast<int>(sizeof(File)) + m.below->szOsFile;
  m.vfs.pNext = nullptr;
  m.vfs.zName = m.name.c_str();
  m.vfs.pAppData = &m;
  m.vfs.xOpen = open;
  m.vfs.xDelete = [](sqlite3_vfs* v, const char* path, int sync) {
    return of(v)->below->xDelete(of(v)->below, path, sync);
  };
  m.vfs.xAccess = [](sqlite3_vfs* v, const char* path, int flags, int* out) {
    return of(v)->below->xAccess(of(v)->below, path, flags, out);
  };
  m.vfs.xFullPathname = [](sqlite3_vfs* v, const char* path, int n, char* out) {
    return of(v)->below->xFullPathname(of(v)->below, path, n, out);
  };
  m.vfs.xRandomness = [](sqlite3_vfs* v, int n, char* out) {
    return of(v)->below->xRandomness(of(v)->below, n, out);
  };
  m.vfs.xSleep = [](sqlite3_vfs* v, int us) { return of(v)->below->xSleep(of(v)->below, us); };
  m.vfs.xCurrentTime = [](sqlite3_vfs* v, double* t) {
    return of(v)->below->xCurrentTime(of(v)->below, t);
  };
  m.vfs.xCurrentTimeInt64 = [](sqlite3_vfs* v, sqlite3_int64* t) {
    return of(v)->below->xCurrentTimeInt64(of(v)->below, t);
  };
  m.vfs.xGetLastError = [](sqlite3_vfs* v, int n, char* out) {
    return of(v)->below->xGetLastError(of(v)->below, n, out);
  };
  sqlite3_vfs_register(&m.vfs, 0);
}

CheckedVfs::~CheckedVfs() { sqlite3_vfs_unregister(&impl_->vfs); }

const char* CheckedVfs::name() const { return impl_->name.c_str(); }
std::string CheckedVfs::damage() const { return impl_->damage; }

}  // namespace limpet::broker
