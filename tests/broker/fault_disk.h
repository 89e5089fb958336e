// A disk that fails: an SQLite VFS over the real one that dies after so many bytes, within a write
// if need be, and that loses, keeps or tears what was not synced when the power goes.
#pragma once
#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace limpet::broker {

class FaultDisk {
 public:
  // SQLite's default from here on, until it goes.
  FaultDisk() {
    below_ = sqlite3_vfs_find(nullptr);
    vfs_ = *below_;
    vfs_.szOsFile = static_cast<int>(sizeof(File)) + below_->szOsFile;
    vfs_.zName = "limpet-fault-disk";
    vfs_.pAppData = this;
    vfs_.iVersion = 2;
    vfs_.xOpen = open;
    vfs_.xDelete = [](sqlite3_vfs* v, const char* path, int sync) {
      FaultDisk& d = of(v);
      const std::lock_guard lock(d.mutex_);
      if (d.dead_) return SQLITE_IOERR_DELETE;
      d.pending_.erase(path);
      return d.below_->xDelete(d.below_, path, sync);
    };
    vfs_.xAccess = [](sqlite3_vfs* v, const char* p, int f, int* out) {
      return of(v).below_->xAccess(of(v).below_, p, f, out);
    };
    vfs_.xFullPathname = [](sqlite3_vfs* v, const char* p, int n, char* out) {
      return of(v).below_->xFullPathname(of(v).below_, p, n, out);
    };
    vfs_.xRandomness = [](sqlite3_vfs* v, int n, char* out) {
      return of(v).below_->xRandomness(of(v).below_, n, out);
    };
    vfs_.xSleep = [](sqlite3_vfs* v, int us) { return of(v).below_->xSleep(of(v).below_, us); };
    vfs_.xCurrentTime = [](sqlite3_vfs* v, double* t) {
      return of(v).below_->xCurrentTime(of(v).below_, t);
    };
    vfs_.xCurrentTimeInt64 = [](sqlite3_vfs* v, sqlite3_int64* t) {
      return of(v).below_->xCurrentTimeInt64(of(v).below_, t);
    };
    vfs_.xGetLastError = [](sqlite3_vfs* v, int n, char* out) {
      return of(v).below_->xGetLastError(of(v).below_, n, out);
    };
    sqlite3_vfs_register(&vfs_, 1);
  }
  ~FaultDisk() {
    sqlite3_vfs_unregister(&vfs_);
    sqlite3_vfs_register(below_, 1);
  }
  FaultDisk(const FaultDisk&) = delete;
  FaultDisk& operator=(const FaultDisk&) = delete;

  // Promises nothing about what a write does to the bytes beside it: SQLite then fills sectors.
  bool careful = false;

  // After so many more bytes all writing fails, the write that crosses the line after its share.
  void die_after(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    left_ = bytes;
  }
  void die() { die_after(0); }
  // Of the n-th write from here on, counted from 0, only so many bytes come to be.
  void die_in_write(int64_t n, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    fatal_write_ = writes_ + n;
    fatal_bytes_ = bytes;
  }
  int64_t writes() {
    const std::lock_guard lock(mutex_);
    return writes_;
  }
  bool dead() {
    const std::lock_guard lock(mutex_);
    return dead_;
  }
  int64_t written() {
    const std::lock_guard lock(mutex_);
    return written_;
  }

  // The machine is there again. A process that was killed has lost nothing that it had written; a
  // power loss keeps, loses or tears (by sectors) each write that no sync came after.
  void revive(bool power_loss, std::mt19937_64& rng) {
    const std::lock_guard lock(mutex_);
    for (auto& [path, writes] : pending_) {
      if (!power_loss || !std::filesystem::exists(path)) continue;
      std::string content = read(path);
      for (auto w = writes.rbegin(); w != writes.rend(); ++w) {
        content.replace(w->offset, w->before.size(), w->before);
        content.resize(w->size_before);
      }
      for (const Write& w : writes) {
        const auto fate = rng() % 3;
        for (size_t at = 0; at < w.bytes.size(); at += kSector) {
          if (fate == 0 || (fate == 1 && rng() % 2 == 0)) continue;
          const std::string sector = w.bytes.substr(at, kSector);
          const size_t to = w.offset + at;
          if (content.size() < to + sector.size()) content.resize(to + sector.size());
          content.replace(to, sector.size(), sector);
        }
      }
      std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
    }
    pending_.clear();
    dead_ = false;
    left_ = fatal_write_ = -1;
  }

 private:
  static constexpr size_t kSector = 512;
  struct Write {
    size_t offset, size_before;
    std::string before, bytes;
  };
  struct File {
    sqlite3_file base;
    FaultDisk* disk;
    const char* path;
    sqlite3_file* below() { return reinterpret_cast<sqlite3_file*>(this + 1); }
  };
  static FaultDisk& of(sqlite3_vfs* v) { return *static_cast<FaultDisk*>(v->pAppData); }
  static File* of(sqlite3_file* f) { return reinterpret_cast<File*>(f); }
  static sqlite3_file* below(sqlite3_file* f) { return of(f)->below(); }

  static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  static int open(sqlite3_vfs* v, const char* path, sqlite3_file* file, int flags, int* out) {
    File* f = of(file);
    *f = {{nullptr}, &of(v), path};
    const int rc = of(v).below_->xOpen(of(v).below_, path, f->below(), flags, out);
    if (rc == SQLITE_OK) f->base.pMethods = methods();
    return rc;
  }

  static int write(sqlite3_file* file, const void* from, int bytes, sqlite3_int64 offset) {
    File* f = of(file);
    FaultDisk& d = *f->disk;
    const std::lock_guard lock(d.mutex_);
    if (d.dead_) return SQLITE_IOERR_WRITE;
    int n = bytes;
    if (d.writes_++ == d.fatal_write_) {
      n = static_cast<int>(std::min<int64_t>(d.fatal_bytes_, bytes));
      d.dead_ = true;
    } else if (d.left_ >= 0) {
      n = static_cast<int>(std::min<int64_t>(d.left_, bytes));
      d.left_ -= n;
      d.dead_ = n < bytes || d.left_ == 0;
    }
    d.written_ += n;
    if (n > 0) {
      sqlite3_int64 size = 0;
      f->below()->pMethods->xFileSize(f->below(), &size);
      Write w{static_cast<size_t>(offset), static_cast<size_t>(size), {}, {}};
      w.bytes.assign(static_cast<const char*>(from), static_cast<size_t>(n));
      w.before.resize(static_cast<size_t>(std::clamp<int64_t>(size - offset, 0, n)));
      if (!w.before.empty()) {
        f->below()->pMethods->xRead(f->below(), w.before.data(), static_cast<int>(w.before.size()),
                                    offset);
      }
      d.pending_[f->path].push_back(std::move(w));
      const int rc = f->below()->pMethods->xWrite(f->below(), from, n, offset);
      if (rc != SQLITE_OK) return rc;
    }
    return n < bytes || d.dead_ ? SQLITE_IOERR_WRITE : SQLITE_OK;
  }

  static int sync(sqlite3_file* file, int flags) {
    FaultDisk& d = *of(file)->disk;
    const std::lock_guard lock(d.mutex_);
    if (d.dead_) return SQLITE_IOERR_FSYNC;
    d.pending_.erase(of(file)->path);
    return below(file)->pMethods->xSync(below(file), flags);
  }

  static int truncate(sqlite3_file* file, sqlite3_int64 n) {
    FaultDisk& d = *of(file)->disk;
    const std::lock_guard lock(d.mutex_);
    if (d.dead_) return SQLITE_IOERR_TRUNCATE;
    d.pending_.erase(of(file)->path);  // and what it wrote before is kept
    return below(file)->pMethods->xTruncate(below(file), n);
  }

  static const sqlite3_io_methods* methods() {
    static const sqlite3_io_methods all = {
        2,
        [](sqlite3_file* f) { return below(f)->pMethods->xClose(below(f)); },
        [](sqlite3_file* f, void* to, int n, sqlite3_int64 at) {
          return below(f)->pMethods->xRead(below(f), to, n, at);
        },
        write,
        truncate,
        sync,
        [](sqlite3_file* f, sqlite3_int64* n) {
          return below(f)->pMethods->xFileSize(below(f), n);
        },
        [](sqlite3_file* f, int l) { return below(f)->pMethods->xLock(below(f), l); },
        [](sqlite3_file* f, int l) { return below(f)->pMethods->xUnlock(below(f), l); },
        [](sqlite3_file* f, int* r) { return below(f)->pMethods->xCheckReservedLock(below(f), r); },
        [](sqlite3_file* f, int op, void* arg) {
          return below(f)->pMethods->xFileControl(below(f), op, arg);
        },
        [](sqlite3_file* f) { return below(f)->pMethods->xSectorSize(below(f)); },
        [](sqlite3_file* f) {
          return of(f)->disk->careful ? 0 : SQLITE_IOCAP_POWERSAFE_OVERWRITE;
        },
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
    return &all;
  }

  sqlite3_vfs* below_ = nullptr;
  sqlite3_vfs vfs_{};
  std::mutex mutex_;
  bool dead_ = false;
  int64_t left_ = -1, written_ = 0;
  int64_t writes_ = 0, fatal_write_ = -1, fatal_bytes_ = 0;
  std::map<std::string, std::vector<Write>> pending_;  // by path, since its last sync
};

}  // namespace limpet::broker
