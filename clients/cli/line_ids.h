// Which lines of a batch are known, in memory that the system can take back: a table of 16-byte
// hashes in a file without a name beside the output. So a file of any length costs the process
// nothing that grows with it but pages of that file.
//
// One thread. std::runtime_error when the disk has no room for it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace limpet::client {

class LineIds {
 public:
  // Flags of a line.
  static constexpr uint8_t kAnswered = 1;  // the output has its answer
  static constexpr uint8_t kSeen = 2;      // the input had it before
  static constexpr uint8_t kFailed = 4;    // its answer is an error

  explicit LineIds(const std::string& folder);
  ~LineIds();
  LineIds(const LineIds&) = delete;
  LineIds& operator=(const LineIds&) = delete;

  // Adds `flag` to the line that is known by `key`; the flags that it had before.
  uint8_t mark(std::string_view key, uint8_t flag);
  uint64_t size() const { return used_; }

 private:
  struct Slot {
    uint64_t low, high;  // of the hash; the lowest three bits of `low` are the flags; 0: free
  };
  struct Table {
    Slot* slots = nullptr;
    uint64_t count = 0;  // a power of two
  };
  Table make(uint64_t count) const;
  static Slot& find(const Table& table, uint64_t low, uint64_t high);
  static void drop(const Table& table);
  void grow();

  std::string folder_;
  Table table_;
  uint64_t used_ = 0;
};

}  // namespace limpet::client
