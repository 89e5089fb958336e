#include "broker/wal_check.h"

#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>

#include "broker/sqlite.h"
#include "broker/wal_format.h"

namespace limpet::broker {
namespace {

class File {
 public:
  File(const std::string& path, int flags) : path_(path), fd_(::open(path.c_str(), flags)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  bool there() const { return fd_ >= 0; }
  std::vector<unsigned char> read() const {
    std::vector<unsigned char> all(static_cast<size_t>(::lseek(fd_, 0, SEEK_END)));
    for (size_t at = 0; at < all.size();) {
      const ssize_t n = ::pread(fd_, all.data() + at, all.size() - at, static_cast<off_t>(at));
      if (n <= 0) throw StoreError("cannot read " + path_ + ": " + std::strerror(errno));
      at += static_cast<size_t>(n);
    }
    return all;
  }
  void put(size_t at, unsigned char byte) const {
    if (::pwrite(fd_, &byte, 1, static_cast<off_t>(at)) != 1 || ::fsync(fd_) != 0) {
      throw StoreError("cannot put " + path_ + " right: " + std::strerror(errno));
    }
  }

 private:
  std::string path_;
  int fd_;
};

struct Bit {
  size_t byte = 0;
  int bit = 0;
};

// The bits of `bytes` whose flip, of one of them, makes their sum the wanted one. A sum is linear
// in each word, so what a changed word adds follows from the words after it alone. The highest bits
// of a word weigh the same in many words.
std::vector<Bit> candidates(WalSum difference, const unsigned char* bytes, size_t n) {
  std::vector<Bit> found;
  WalSum even{1, 1}, odd{0, 1};  // what 1 more in the last pair's words adds to the sum
  for (size_t pair = n; pair >= 8; pair -= 8) {
    for (const bool first : {true, false}) {
      const WalSum& weight = first ? even : odd;
      const size_t at = pair - (first ? 8 : 4);
      uint32_t word;
      std::memcpy(&word, bytes + at, 4);
      for (int bit = 0; bit < 32; ++bit) {
        const uint32_t change = (word >> bit & 1) != 0 ? -(1u << bit) : 1u << bit;
        if (weight.a * change == difference.a && weight.b * change == difference.b) {
          found.push_back({at + static_cast<size_t>(bit / 8), bit % 8});
        }
      }
    }
    const auto before = [](WalSum w) { return WalSum{w.a + w.b, w.a + 2 * w.b}; };
    even = before(even);
    odd = before(odd);
  }
  return found;
}

// The only bit in which the two differ; none when there are more, or none.
std::optional<Bit> difference(const unsigned char* a, const unsigned char* b, size_t n) {
  std::optional<Bit> found;
  for (size_t i = 0; i < n; ++i) {
    const unsigned x = a[i] ^ b[i];
    if (x == 0) continue;
    if (found || !std::has_single_bit(x)) return std::nullopt;
    found = Bit{i, std::countr_zero(x)};
  }
  return found;
}

class Wal {
 public:
  explicit Wal(std::vector<unsigned char> bytes) : bytes_(std::move(bytes)) {}

  size_t frames() const {
    return bytes_.size() < kWalHeaderBytes ? 0 : (bytes_.size() - kWalHeaderBytes) / kWalFrameBytes;
  }
  const unsigned char* header() const { return bytes_.data(); }
  size_t at(size_t frame) const { return kWalHeaderBytes + frame * kWalFrameBytes; }
  const unsigned char* frame(size_t i) const { return bytes_.data() + at(i); }
  unsigned char& flip(size_t at, int bit) { return bytes_[at] ^= static_cast<uint8_t>(1 << bit); }

  bool sound_header() const {
    return wal_word(header()) == kWalMagic && wal_word(header() + 4) == kWalVersion &&
           wal_word(header() + 8) == kPageBytes &&
           wal_sum({}, header(), kWalHeaderSumAt) == stored_sum(header() + kWalHeaderSumAt);
  }
  // Of the frame, going on from what is stored before it.
  WalSum sum(size_t i) const {
    const WalSum before =
        stored_sum(i == 0 ? header() + kWalHeaderSumAt : frame(i - 1) + kFrameSumAt);
    return wal_sum(wal_sum(before, frame(i), 8), frame(i) + kFrameHeaderBytes, kPageBytes);
  }
  bool same_salts(size_t i) const {
    return std::memcmp(frame(i) + kFrameSaltAt, header() + kWalSaltAt, 8) == 0;
  }
  bool sound(size_t i) const {
    return same_salts(i) && sum(i) == stored_sum(frame(i) + kFrameSumAt);
  }
  // SQLite may fill a sector with copies of a commit's last frame.
  bool repeats(size_t i, size_t commit) const {
    return std::memcmp(frame(i), frame(commit), 8) == 0;
  }
  bool commits(size_t i) const { return wal_word(frame(i) + kFrameCommitAt) != 0; }

  // The bits of the file of which a flip of one explains the frame.
  std::vector<Bit> flipped(size_t i) const;
  std::optional<Bit> flipped_in_header();

 private:
  std::vector<unsigned char> bytes_;
};

std::vector<Bit> Wal::flipped(size_t i) const {
  const WalSum wanted = stored_sum(frame(i) + kFrameSumAt), is = sum(i);
  if (!same_salts(i)) {
    const auto bit = difference(frame(i) + kFrameSaltAt, header() + kWalSaltAt, 8);
    if (!bit || is != wanted) return {};
    return {{bit->byte + at(i) + kFrameSaltAt, bit->bit}};
  }
  const uint32_t a = wanted.a ^ is.a, b = wanted.b ^ is.b;
  const bool of_sum = std::popcount(a) + std::popcount(b) == 1;
  const int n = std::countr_zero(a | b);  // stored with its highest byte first
  const Bit in_sum{at(i) + kFrameSumAt + (a != 0 ? 3u : 7u) - static_cast<size_t>(n / 8), n % 8};
  // The next frame goes on from the stored sum, and so tells whether that is sound.
  if (of_sum && i + 1 < frames() && !sound(i + 1)) return {in_sum};
  std::vector<unsigned char> summed(frame(i), frame(i) + 8);
  summed.insert(summed.end(), frame(i) + kFrameHeaderBytes, frame(i) + kWalFrameBytes);
  auto bits = candidates({wanted.a - is.a, wanted.b - is.b}, summed.data(), summed.size());
  for (Bit& bit : bits) bit.byte += at(i) + (bit.byte < 8 ? 0 : kFrameHeaderBytes - 8);
  if (of_sum && bits.empty()) return {in_sum};
  return bits;
}

// Only when frames follow that belong to the header put right: a header that a power loss has torn
// begins a log anew, and what follows it is of the one before.
std::optional<Bit> Wal::flipped_in_header() {
  for (size_t byte = 0; byte < kWalHeaderBytes; ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      flip(byte, bit);
      const bool fits = sound_header() && sound(0);
      flip(byte, bit);
      if (fits) return Bit{byte, bit};
    }
  }
  return std::nullopt;
}

// Whether commits follow the wrong frame that were made after its own was durable.
bool commits_follow(const Wal& wal, size_t wrong) {
  std::optional<size_t> commit;
  const bool copy = wrong > 0 && wal.repeats(wrong, wrong - 1);  // its end may not be synced
  if (!copy && wal.same_salts(wrong) && wal.commits(wrong)) commit = wrong;
  for (size_t i = wrong + 1; i < wal.frames(); ++i) {
    if (!wal.sound(i)) continue;
    if (commit && !wal.repeats(i, *commit)) return true;
    if (!commit && wal.commits(i)) commit = i;
  }
  return false;
}

}  // namespace

WalCheck check_wal(const std::string& path) {
  WalCheck result;
  const File file(path, O_RDWR | O_CLOEXEC);
  if (!file.there()) return result;
  Wal wal(file.read());
  const auto mend = [&](const Bit& bit, const std::string& place) {
    file.put(bit.byte, wal.flip(bit.byte, bit.bit));
    result.mended.push_back(place + ": bit " + std::to_string(bit.bit) + " of byte " +
                            std::to_string(bit.byte));
  };
  if (wal.frames() == 0) return result;
  if (!wal.sound_header()) {
    const auto bit = wal.flipped_in_header();
    if (!bit) return result;
    mend(*bit, "the header");
  }
  for (size_t i = 0; i < wal.frames(); ++i) {
    if (wal.sound(i)) continue;
    const std::string place = "frame " + std::to_string(i + 1);
    const auto bits = wal.flipped(i);
    if (bits.size() == 1) {
      mend(bits[0], place);
      continue;
    }
    if (!bits.empty() || commits_follow(wal, i)) result.damage = place;
    return result;
  }
  return result;
}

}  // namespace limpet::broker
