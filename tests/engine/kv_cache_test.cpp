// KvCache against a naive model: a fake device whose rows hold a digest of the whole prefix, so
// that any page shared, copied or reused wrongly shows as a wrong row.
#include "engine/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace limpet::engine {
namespace {

constexpr int32_t kWidth = 4;

class FakeDevice {
 public:
  explicit FakeDevice(int32_t pages) : rows_(static_cast<size_t>(pages * kWidth), 0) {}
  static uint64_t digest(uint64_t scope, std::span<const Token> prefix) {
    uint64_t h = scope * 1000003 + 17;
    for (const Token t : prefix) h = h * 6364136223846793005ull + static_cast<uint64_t>(t) + 1;
    return h;
  }
  void copy(const std::vector<PageCopy>& copies) {
    for (const auto& c : copies) {
      std::copy_n(&row(c.from, 0), kWidth, &row(c.to, 0));
    }
  }
  uint64_t& row(int32_t page, int64_t i) { return rows_[static_cast<size_t>(page * kWidth + i)]; }

 private:
  std::vector<uint64_t> rows_;
};

// Drives cache, device and model together.
class Rig {
 public:
  Rig(int32_t pages, bool share)
      : cache({.page_tokens = kWidth, .pages = pages, .share_prefixes = share}), device(pages) {}

  SequenceId create(uint64_t scope) {
    const SequenceId id = cache.create(scope);
    model[id] = {scope, {}};
    return id;
  }
  bool append(SequenceId id, const std::vector<Token>& tokens) {
    const int64_t needed = cache.pages_needed(id, std::ssize(tokens));
    const int64_t free = cache.free_pages();
    const bool ok = cache.reserve(id, std::ssize(tokens));
    EXPECT_EQ(ok, needed <= free);
    EXPECT_EQ(cache.free_pages(), ok ? free - needed : free);
    if (!ok) return false;
    EXPECT_TRUE(cache.reserved(id, std::ssize(tokens)));
    write(id, tokens);
    return true;
  }
  void write(SequenceId id, const std::vector<Token>& tokens) {
    device.copy(cache.take_copies());
    auto& [scope, all] = model[id];
    for (const Token t : tokens) {
      all.push_back(t);
      const int64_t p = std::ssize(all) - 1;
      device.row(cache.page_table(id)[static_cast<size_t>(p / kWidth)], p % kWidth) =
          FakeDevice::digest(scope, all);
    }
    cache.commit(id, tokens);
  }
  void destroy(SequenceId id) {
    cache.destroy(id);
    model.erase(id);
  }
  void truncate(SequenceId id, int64_t length) {
    cache.truncate(id, length);
    model[id].second.resize(static_cast<size_t>(length));
  }
  SequenceId fork(SequenceId id, int64_t length) {
    const SequenceId twin = cache.fork(id, length);
    auto copy = model[id];
    copy.second.resize(static_cast<size_t>(length));
    model[twin] = copy;
    return twin;
  }
  int64_t adopt(SequenceId id, const std::vector<Token>& tokens) {
    const int64_t n = cache.adopt_prefix(id, tokens);
    model[id].second.assign(tokens.begin(), tokens.begin() + n);
    return n;
  }
  void check() {
    device.copy(cache.take_copies());
    std::set<int32_t> used;
    for (const auto& [id, entry] : model) {
      const auto& [scope, all] = entry;
      ASSERT_TRUE(std::ranges::equal(cache.tokens(id), all));
      const auto pages = cache.page_table(id);
      used.insert(pages.begin(), pages.end());
      for (size_t p = 0; p < all.size(); ++p) {
        ASSERT_EQ(device.row(pages[p / kWidth], static_cast<int64_t>(p % kWidth)),
                  FakeDevice::digest(scope, std::span(all).first(p + 1)))
            << "row " << p;
      }
    }
    ASSERT_EQ(cache.free_pages() + std::ssize(used), cache.total_pages());
    ASSERT_EQ(cache.sequences(), std::ssize(model));
  }
  // What of `tokens` live sequences of the scope hold in full pages.
  int64_t held(uint64_t scope, const std::vector<Token>& tokens) const {
    int64_t best = 0;
    for (const auto& [id, entry] : model) {
      if (entry.first != scope) continue;
      const auto [a, b] = std::ranges::mismatch(entry.second, tokens);
      const int64_t same = std::min<int64_t>(b - tokens.begin(), std::ssize(tokens) - 1);
      best = std::max(best, same / kWidth * kWidth);
    }
    return best;
  }

  KvCache cache;
  FakeDevice device;
  std::map<SequenceId, std::pair<uint64_t, std::vector<Token>>> model;
};

void random_walk(uint64_t seed, bool share, int operations) {
  std::mt19937_64 random(seed);
  const auto below = [&](int64_t n) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(n));
  };
  Rig rig(24, share);
  for (int op = 0; op < operations; ++op) {
    const auto pick = [&] { return std::next(rig.model.begin(), below(std::ssize(rig.model))); };
    std::vector<Token> tokens(static_cast<size_t>(1 + below(10)));
    for (Token& t : tokens) t = static_cast<Token>(below(2));  // few values: many equal prefixes
    const int64_t what = rig.model.empty() ? 0 : below(10);
    if (what == 0 && rig.model.size() < 8) {
      const uint64_t scope = static_cast<uint64_t>(below(2));
      const int64_t held = share ? rig.held(scope, tokens) : 0;
      const SequenceId id = rig.create(scope);
      ASSERT_GE(rig.adopt(id, tokens), held);
    } else if (what == 1) {
      rig.destroy(pick()->first);
    } else if (what == 2) {
      const auto it = pick();
      rig.truncate(it->first, below(std::ssize(it->second.second) + 1));
    } else if (what == 3 && rig.model.size() < 8) {
      const auto it = pick();
      rig.fork(it->first, below(std::ssize(it->second.second) + 1));
    } else if (!rig.model.empty()) {
      rig.append(pick()->first, tokens);
    }
    ASSERT_NO_FATAL_FAILURE(rig.check()) << "seed " << seed << ", operation " << op;
  }
}

TEST(KvCache, RandomOperationsMatchTheNaiveModel) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    ASSERT_NO_FATAL_FAILURE(random_walk(seed, seed % 4 != 0, 300));
  }
}

TEST(KvCache, ReservationIsAllOrNothing) {
  Rig rig(3, true);
  const SequenceId a = rig.create(0);
  EXPECT_FALSE(rig.cache.reserve(a, 13));
  EXPECT_EQ(rig.cache.free_pages(), 3);
  EXPECT_TRUE(rig.append(a, std::vector<Token>(12, 1)));
  EXPECT_FALSE(rig.append(a, {1}));
  rig.truncate(a, 5);
  EXPECT_EQ(rig.cache.free_pages(), 1);
}

TEST(KvCache, PrefixIsAdoptedWithinItsScopeOnly) {
  Rig rig(16, true);
  const std::vector<Token> prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  rig.append(rig.create(7), prompt);
  EXPECT_EQ(rig.adopt(rig.create(8), prompt), 0);
  EXPECT_EQ(rig.adopt(rig.create(7), prompt), 8);
  // At least one token is left to compute, so that there are logits to sample from.
  EXPECT_EQ(rig.adopt(rig.create(7), {1, 2, 3, 4, 5, 6, 7, 8}), 4);
  EXPECT_EQ(rig.adopt(rig.create(7), {1, 2, 3, 5, 5, 6, 7, 8, 9}), 0);
  EXPECT_EQ(rig.cache.counters().adopted_tokens, 12);
  rig.check();
}

TEST(KvCache, DestroyedPrefixStaysAdoptableUntilItsRoomIsNeeded) {
  Rig rig(4, true);
  const std::vector<Token> prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const SequenceId a = rig.create(0);
  rig.append(a, prompt);
  rig.destroy(a);
  EXPECT_EQ(rig.cache.free_pages(), 4);
  EXPECT_EQ(rig.cache.cached_pages(), 2);
  EXPECT_EQ(rig.cache.adoptable(0, prompt), 8);
  const SequenceId b = rig.create(1);
  rig.append(b, std::vector<Token>(12, 5));  // takes 3 of 4: the deeper page goes first
  EXPECT_EQ(rig.cache.adoptable(0, prompt), 4);
  EXPECT_EQ(rig.cache.counters().evicted_pages, 1);
  rig.check();
}

TEST(KvCache, EqualContentComputedTwiceIsKeptOnce) {
  Rig rig(8, true);
  const SequenceId a = rig.create(0), b = rig.create(0);
  rig.append(a, {1, 2, 3, 4, 5});
  rig.append(b, {1, 2, 3, 4, 5});
  EXPECT_EQ(rig.cache.page_table(a)[0], rig.cache.page_table(b)[0]);
  EXPECT_NE(rig.cache.page_table(a)[1], rig.cache.page_table(b)[1]);
  EXPECT_EQ(rig.cache.counters().deduplicated_pages, 1);
  EXPECT_EQ(rig.cache.free_pages(), 5);
}

TEST(KvCache, ForkCopiesOnlyThePageThatIsWritten) {
  Rig rig(8, false);
  const SequenceId a = rig.create(0);
  rig.append(a, {1, 2, 3, 4, 5, 6});
  const SequenceId b = rig.fork(a, 6);
  EXPECT_EQ(rig.cache.free_pages(), 6);
  EXPECT_EQ(rig.cache.pages_needed(b, 1), 1);
  EXPECT_EQ(rig.cache.pages_needed(b, 0), 0);
  EXPECT_FALSE(rig.cache.reserved(b, 1));
  rig.append(b, {7});
  rig.append(a, {8});  // alone again: no copy
  EXPECT_EQ(rig.cache.counters().copied_pages, 1);
  rig.check();
}

TEST(KvCache, WrongCallsAreBugs) {
  Rig rig(4, true);
  const SequenceId a = rig.create(0);
  EXPECT_THROW(rig.cache.commit(a, std::vector<Token>{1}), std::logic_error);
  EXPECT_THROW(rig.cache.truncate(a, 1), std::logic_error);
  EXPECT_THROW(rig.cache.fork(a, 1), std::logic_error);
  EXPECT_THROW(rig.cache.length(SequenceId{99}), std::logic_error);
  EXPECT_THROW(rig.cache.create(1ull << 63), std::logic_error);
  rig.append(a, {1});
  EXPECT_THROW(rig.cache.adopt_prefix(a, std::vector<Token>{1, 2}), std::logic_error);
  rig.destroy(a);
  EXPECT_THROW(rig.cache.destroy(a), std::logic_error);
}

}  // namespace
}  // namespace limpet::engine
