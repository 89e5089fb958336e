// The bookkeeping of what stands below the device, alone.
#include "worker/tiers.h"

#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>

namespace limpet::worker {
namespace {

constexpr SessionNumber kA{1}, kB{2}, kC{3}, kD{4};

std::vector<Token> tokens(int64_t n, Token first = 0) {
  std::vector<Token> all(static_cast<size_t>(n));
  std::iota(all.begin(), all.end(), first);
  return all;
}

std::vector<int32_t> pages(int64_t n) {
  std::vector<int32_t> all(static_cast<size_t>(n));
  std::iota(all.begin(), all.end(), 100);
  return all;
}

Tiers::Ended finish(Tiers& tiers, const MovePages& move) {
  return tiers.end({move.id, std::ssize(move.pages), ""});
}

// A session of so many tokens in pages of 4, whose only KV is in the host's memory.
void put(Tiers& tiers, SessionNumber session, int64_t n) {
  const auto move = tiers.spill(session, tokens(n), pages((n + 3) / 4));
  ASSERT_TRUE(move);
  EXPECT_TRUE(finish(tiers, *move).whole);
  tiers.set_spare(session, false);
}

TEST(Tiers, AreOffWithoutHostMemory) {
  Tiers tiers({.host_pages = 0, .disk_pages = 0, .least_tokens = 0}, 4);
  EXPECT_FALSE(tiers.takes(1));
  EXPECT_FALSE(tiers.make_room(1));
  EXPECT_FALSE(tiers.demote_early());
  EXPECT_THROW(Tiers({.host_pages = 0, .disk_pages = 5, .least_tokens = 0}, 4), std::logic_error);
}

TEST(Tiers, TakeWhatIsLongEnoughAndFits) {
  const Tiers tiers({.host_pages = 4, .disk_pages = 0, .least_tokens = 5}, 4);
  EXPECT_FALSE(tiers.takes(4));
  EXPECT_TRUE(tiers.takes(5));
  EXPECT_TRUE(tiers.takes(16));
  EXPECT_FALSE(tiers.takes(17));
}

TEST(Tiers, ACopyIsGoodForTheTokensThatItHas) {
  Tiers tiers({.host_pages = 8, .disk_pages = 0, .least_tokens = 1}, 4);
  put(tiers, kA, 10);
  EXPECT_EQ(tiers.covered(kA, tokens(20)), 10);
  EXPECT_EQ(tiers.covered(kA, tokens(7)), 7);
  auto other = tokens(10);
  other[6] = 99;
  EXPECT_EQ(tiers.covered(kA, other), 6);
  EXPECT_EQ(tiers.covered(kB, tokens(10)), 0);
  EXPECT_EQ(tiers.gauges().tokens[0], 10);
  EXPECT_EQ(tiers.gauges().pages_used[0], 3);
}

TEST(Tiers, ASessionThatHasGrownMovesOnlyItsNewPages) {
  Tiers tiers({.host_pages = 8, .disk_pages = 0, .least_tokens = 1}, 4);
  put(tiers, kA, 10);
  const auto more = tiers.spill(kA, tokens(17), pages(5));
  ASSERT_TRUE(more);
  ASSERT_EQ(more->pages.size(), 3u);  // the third, which was not full, and two more
  EXPECT_EQ(more->pages[0].from, 102);
  EXPECT_FALSE(tiers.spill(kA, tokens(17), pages(5))) << "its copy is moving";
  EXPECT_EQ(tiers.covered(kA, tokens(17)), 10) << "the old one holds until then";
  finish(tiers, *more);
  EXPECT_EQ(tiers.covered(kA, tokens(17)), 17);
  EXPECT_EQ(tiers.gauges().pages_used[0], 5);
}

TEST(Tiers, ASpillThatFailsLeavesWhatWasThere) {
  Tiers tiers({.host_pages = 8, .disk_pages = 0, .least_tokens = 1}, 4);
  put(tiers, kA, 8);
  const auto more = tiers.spill(kA, tokens(16), pages(4));
  EXPECT_FALSE(tiers.end({more->id, 1, "a failure"}).whole);
  EXPECT_EQ(tiers.covered(kA, tokens(16)), 8);
  EXPECT_EQ(tiers.gauges().pages_used[0], 2);
  const auto first = tiers.spill(kB, tokens(8), pages(2));
  tiers.end({first->id, 0, "a failure"});
  EXPECT_FALSE(tiers.tier_of(kB));
  EXPECT_EQ(tiers.gauges().pages_used[0], 2);
  EXPECT_EQ(tiers.gauges().spill_failed, 2);
}

TEST(Tiers, DegradeInTheContractsOrder) {
  Tiers tiers({.host_pages = 4, .disk_pages = 4, .least_tokens = 1}, 4);
  put(tiers, kA, 8);
  put(tiers, kB, 8);
  EXPECT_FALSE(tiers.spill(kC, tokens(8), pages(2)));
  auto demote = tiers.make_room(2);
  ASSERT_TRUE(demote);  // the older one goes to disk
  EXPECT_EQ(demote->kind, MoveKind::demote);
  EXPECT_FALSE(tiers.spill(kC, tokens(8), pages(2))) << "its place is free when it has gone";
  EXPECT_EQ(finish(tiers, *demote).session, kA);
  EXPECT_EQ(tiers.tier_of(kA), Tier::disk);
  put(tiers, kC, 8);
  finish(tiers, *tiers.make_room(2));
  EXPECT_EQ(tiers.tier_of(kB), Tier::disk);
  EXPECT_TRUE(tiers.take_gone().empty()) << "nothing has been lost so far";
  put(tiers, kD, 8);
  finish(tiers, *tiers.make_room(2));  // both are full: what the disk has had longest is gone
  EXPECT_EQ(tiers.take_gone(), std::vector{kA});
  EXPECT_FALSE(tiers.tier_of(kA));
  EXPECT_EQ(tiers.tier_of(kC), Tier::disk);
  EXPECT_EQ(tiers.gauges().gone, 1);
}

TEST(Tiers, WithoutADiskTheOldestIsGone) {
  Tiers tiers({.host_pages = 4, .disk_pages = 0, .least_tokens = 1}, 4);
  put(tiers, kA, 8);
  put(tiers, kB, 8);
  tiers.touch(kA);
  EXPECT_FALSE(tiers.make_room(1));
  EXPECT_EQ(tiers.take_gone(), std::vector{kB});
  EXPECT_EQ(tiers.free_host_pages(), 2);
}

TEST(Tiers, SpareCopiesGoFirst) {
  Tiers tiers({.host_pages = 4, .disk_pages = 4, .least_tokens = 1}, 4);
  put(tiers, kA, 8);
  finish(tiers, *tiers.spill(kB, tokens(8), pages(2)));  // on the device too
  EXPECT_EQ(tiers.gauges().spare_pages, 2);
  EXPECT_FALSE(tiers.make_room(2)) << "nothing has to move";
  EXPECT_EQ(tiers.take_gone(), std::vector{kB});
  EXPECT_EQ(tiers.gauges().gone, 0) << "and nothing is lost";
  EXPECT_EQ(tiers.tier_of(kA), Tier::host);
}

TEST(Tiers, ARestoreFromDiskTakesTheCopyAndADamagedOneToo) {
  for (const bool damaged : {false, true}) {
    Tiers tiers({.host_pages = 4, .disk_pages = 4, .least_tokens = 1}, 4);
    put(tiers, kA, 16);
    finish(tiers, *tiers.make_room(4));
    const MovePages back = tiers.restore(kA, 1, pages(3));
    EXPECT_EQ(back.kind, MoveKind::restore_disk);
    ASSERT_EQ(back.pages.size(), 3u);
    EXPECT_TRUE(tiers.moving(kA));
    const auto ended = tiers.end({back.id, damaged ? 2 : 3, damaged ? "damaged" : ""});
    EXPECT_EQ(ended.whole, !damaged);
    EXPECT_EQ(ended.pages, damaged ? 2 : 3);
    EXPECT_FALSE(tiers.tier_of(kA));
    EXPECT_EQ(tiers.gauges().pages_used[1], 0);
    EXPECT_EQ(tiers.gauges().restored[1], !damaged);
    EXPECT_EQ(tiers.gauges().damaged[1], damaged);
  }
}

TEST(Tiers, PagesOfADroppedCopyAreTheMovesUntilItEnds) {
  Tiers tiers({.host_pages = 4, .disk_pages = 4, .least_tokens = 1}, 4);
  put(tiers, kA, 16);
  const MovePages back = tiers.restore(kA, 0, pages(4));
  tiers.drop(kA);
  EXPECT_EQ(tiers.free_host_pages(), 0) << "they are being read";
  EXPECT_FALSE(tiers.spill(kA, tokens(4), pages(1)));
  EXPECT_TRUE(tiers.end({back.id, 4, ""}).orphan);
  EXPECT_EQ(tiers.free_host_pages(), 4);
  // Likewise while they are written.
  const auto spill = tiers.spill(kA, tokens(16), pages(4));
  tiers.drop(kA);
  EXPECT_EQ(tiers.free_host_pages(), 0);
  EXPECT_TRUE(finish(tiers, *spill).orphan);
  EXPECT_EQ(tiers.free_host_pages(), 4);
  EXPECT_TRUE(tiers.idle());
}

TEST(Tiers, ADiskThatFailsIsNotAskedAgain) {
  Tiers tiers({.host_pages = 4, .disk_pages = 4, .least_tokens = 1}, 4);
  put(tiers, kA, 8);
  put(tiers, kB, 8);
  const auto demote = tiers.make_room(2);
  tiers.end({demote->id, 0, "no space left"});
  EXPECT_EQ(tiers.tier_of(kA), Tier::host);
  EXPECT_FALSE(tiers.make_room(2));
  EXPECT_EQ(tiers.take_gone().size(), 1u);
  EXPECT_EQ(tiers.gauges().demote_failed, 1);
  EXPECT_EQ(tiers.gauges().pages_used[1], 0);
}

TEST(Tiers, RoomThatCostsNobodyAnythingIsTold) {
  Tiers tiers({.host_pages = 6, .disk_pages = 3, .least_tokens = 1}, 4);
  EXPECT_EQ(tiers.free_below(), 9);
  const auto first = tiers.spill(kA, tokens(12), pages(3));
  EXPECT_EQ(tiers.free_below(), 9) << "it is on its way, to a place of its own";
  finish(tiers, *first);
  EXPECT_EQ(tiers.free_below(), 6);
  tiers.set_spare(kA, false);
  put(tiers, kB, 12);
  EXPECT_TRUE(tiers.has_room(3)) << "the first moves to disk";
  finish(tiers, *tiers.make_room(3));
  put(tiers, kC, 12);
  EXPECT_EQ(tiers.free_below(), 0);
  EXPECT_FALSE(tiers.has_room(3)) << "the first would be lost";
  EXPECT_FALSE(tiers.demote_early()) << "nor is it lost before anybody needs its room";
  tiers.set_spare(kC, true);
  EXPECT_TRUE(tiers.has_room(3)) << "what is on the device too may go";
  EXPECT_TRUE(tiers.take_gone().empty());
}

TEST(Tiers, GoToDiskWhileThereIsTime) {
  Tiers tiers({.host_pages = 16, .disk_pages = 16, .least_tokens = 1}, 4);
  put(tiers, kA, 28);
  put(tiers, kB, 28);
  EXPECT_FALSE(tiers.demote_early());
  put(tiers, kC, 4);
  const auto demote = tiers.demote_early();
  ASSERT_TRUE(demote);
  EXPECT_FALSE(tiers.demote_early()) << "one at a time";
  EXPECT_EQ(finish(tiers, *demote).session, kA);
}

}  // namespace
}  // namespace limpet::worker
