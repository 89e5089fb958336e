// Shape buckets: which compiled program serves a step of `batch` rows over `past` tokens.
//
// A key is (batch << 32) | past_seq, both rounded up to the upper bound of a range of a ladder. Its
// highest bit tells programs for runs of a sequence's rows from programs for one row each.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace limpet::engine {

struct BucketKey {
  uint64_t value = 0;  // (runs << 63) | (batch << 32) | past_seq
  static BucketKey of(uint32_t batch, uint32_t past, bool runs = false) {
    return {(static_cast<uint64_t>(runs) << 63) | (static_cast<uint64_t>(batch) << 32) | past};
  }
  uint32_t batch() const { return static_cast<uint32_t>(value >> 32) & 0x7fffffffu; }
  bool runs() const { return value >> 63 != 0; }
  uint32_t past() const { return static_cast<uint32_t>(value); }
  bool operator==(const BucketKey&) const = default;
};
std::string to_string(BucketKey key);  // "batch 4, past 1024", "runs of batch 4, past 1024"

// Ranges [low, high], ascending and disjoint; a value is rounded up to the high of its range.
class Ladder {
 public:
  struct Range {
    uint32_t low = 0, high = 0;
    bool operator==(const Range&) const = default;
  };
  // Throws std::runtime_error for no range, an empty or an overlapping one; gaps are allowed.
  explicit Ladder(std::vector<Range> ranges);
  static Ladder powers_of_two(uint32_t first, uint32_t limit);  // 0…first, …2·first, … limit
  // Ranges 32 wide up to `narrow`, then 128 wide, up to `limit`.
  static Ladder linear(uint32_t limit, uint32_t narrow = 256);
  static Ladder single(uint32_t limit);  // 0…limit

  std::optional<Range> find(uint32_t value) const;
  const std::vector<Range>& ranges() const { return ranges_; }
  uint32_t limit() const { return ranges_.back().high; }

 private:
  std::vector<Range> ranges_;
};

enum class LadderKind : uint8_t { powers_of_two, linear, single };

struct BucketOptions {
  LadderKind batch = LadderKind::powers_of_two;
  LadderKind past = LadderKind::powers_of_two;
};

Ladder make_ladder(LadderKind kind, uint32_t first, uint32_t limit);

}  // namespace limpet::engine
