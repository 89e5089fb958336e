#include "engine/bucket.h"

#include <algorithm>
#include <stdexcept>

namespace limpet::engine {

std::string to_string(BucketKey key) {
  return std::string(key.runs() ? "runs of " : "") + "batch " + std::to_string(key.batch()) +
         ", past " + std::to_string(key.past());
}

Ladder::Ladder(std::vector<Range> ranges) : ranges_(std::move(ranges)) {
  if (ranges_.empty()) throw std::runtime_error("a bucket ladder needs at least one range");
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const auto text = "bucket range [" + std::to_string(ranges_[i].low) + ", " +
                      std::to_string(ranges_[i].high) + "]";
    if (ranges_[i].low > ranges_[i].high) throw std::runtime_error(text + " is empty");
    if (i > 0 && ranges_[i].low <= ranges_[i - 1].high) {
      throw std::runtime_error(text + " overlaps the range before it or is out of order");
    }
  }
}

Ladder Ladder::powers_of_two(uint32_t first, uint32_t limit) {
  if (first == 0) throw std::runtime_error("a ladder of powers of two starts above 0");
  std::vector<Range> ranges;
  uint64_t low = 0;
  for (uint64_t high = std::min(first, limit);; high = std::min<uint64_t>(2 * high, limit)) {
    ranges.push_back({static_cast<uint32_t>(low), static_cast<uint32_t>(high)});
    if (high >= limit) break;
    low = high + 1;
  }
  return Ladder(std::move(ranges));
}

Ladder Ladder::linear(uint32_t limit, uint32_t narrow) {
  std::vector<Range> ranges;
  uint64_t low = 0;
  for (uint64_t high = 0; high < limit;) {
    high = std::min<uint64_t>(high + (high < narrow ? 32 : 128), limit);
    ranges.push_back({static_cast<uint32_t>(low), static_cast<uint32_t>(high)});
    low = high + 1;
  }
  if (ranges.empty()) ranges.push_back({0, 0});
  return Ladder(std::move(ranges));
}

Ladder Ladder::single(uint32_t limit) { return Ladder({{0, limit}}); }

std::optional<Ladder::Range> Ladder::find(uint32_t value) const {
  const auto it = std::ranges::lower_bound(ranges_, value, {}, &Range::high);
  if (it == ranges_.end() || value < it->low) return std::nullopt;
  return *it;
}

Ladder make_ladder(LadderKind kind, uint32_t first, uint32_t limit) {
  switch (kind) {
    case LadderKind::powers_of_two: return Ladder::powers_of_two(first, limit);
    case LadderKind::linear: return Ladder::linear(limit);
    case LadderKind::single: return Ladder::single(limit);
  }
  throw std::logic_error("unknown ladder kind");
}

}  // namespace limpet::engine
