#include "engine/bucket.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "engine/binding_state.h"

namespace limpet::engine {
namespace {

using Range = Ladder::Range;

TEST(Bucket, KeyHoldsBatchAboveAndPastBelow) {
  const BucketKey key = BucketKey::of(3, 1024);
  EXPECT_EQ(key.value, (3ull << 32) | 1024);
  EXPECT_EQ(key.batch(), 3u);
  EXPECT_EQ(key.past(), 1024u);
  EXPECT_EQ(to_string(key), "batch 3, past 1024");
  EXPECT_FALSE(key.runs());
}

TEST(Bucket, KeysOfRunsDifferInTheHighestBitAlone) {
  const BucketKey key = BucketKey::of(3, 1024, true);
  EXPECT_EQ(key.value, (1ull << 63) | (3ull << 32) | 1024);
  EXPECT_EQ(key.batch(), 3u);
  EXPECT_EQ(key.past(), 1024u);
  EXPECT_TRUE(key.runs());
  EXPECT_EQ(to_string(key), "runs of batch 3, past 1024");
}

TEST(Bucket, PowersOfTwoEndAtTheLimit) {
  const Ladder ladder = Ladder::powers_of_two(16, 100);
  EXPECT_EQ(ladder.ranges(), (std::vector<Range>{{0, 16}, {17, 32}, {33, 64}, {65, 100}}));
  EXPECT_EQ(ladder.find(33)->high, 64u);
  EXPECT_EQ(ladder.find(0)->high, 16u);
  EXPECT_FALSE(ladder.find(101));
  EXPECT_EQ(Ladder::powers_of_two(16, 4).ranges(), (std::vector<Range>{{0, 4}}));
  EXPECT_EQ(Ladder::powers_of_two(1, 0xffffffffu).limit(), 0xffffffffu);
}

TEST(Bucket, LinearIsNarrowThenWide) {
  const Ladder ladder = Ladder::linear(400, 64);
  EXPECT_EQ(ladder.ranges(),
            (std::vector<Range>{{0, 32}, {33, 64}, {65, 192}, {193, 320}, {321, 400}}));
}

TEST(Bucket, SingleServesAllUpToItsLimit) {
  EXPECT_EQ(Ladder::single(7).find(0)->high, 7u);
  EXPECT_EQ(Ladder::single(7).find(7)->high, 7u);
  EXPECT_FALSE(Ladder::single(7).find(8));
}

TEST(Bucket, BadRangesAreRefused) {
  EXPECT_THROW(Ladder(std::vector<Range>{}), std::runtime_error);
  EXPECT_THROW(Ladder({{5, 4}}), std::runtime_error);
  EXPECT_THROW(Ladder({{0, 4}, {4, 8}}), std::runtime_error);
  EXPECT_THROW(Ladder({{5, 8}, {0, 4}}), std::runtime_error);
  EXPECT_THROW(Ladder::powers_of_two(0, 4), std::runtime_error);
  const Ladder gap({{0, 4}, {8, 16}});
  EXPECT_FALSE(gap.find(6));
}

TEST(BindingState, OneKindIsBoundAtATime) {
  BindingState state;
  EXPECT_FALSE(state.bound());
  state.bind(ProgramKind::decode, 64);
  EXPECT_EQ(state.upper(ProgramKind::decode), 64);
  state.bind(ProgramKind::block, 128);
  EXPECT_FALSE(state.upper(ProgramKind::decode));
  EXPECT_EQ(state.upper(ProgramKind::block), 128);
  state.reset_after_block();
  EXPECT_FALSE(state.upper(ProgramKind::block));
  EXPECT_EQ(state.upper(ProgramKind::decode_after_block), 128);
  state.reset_after_block();  // no block since: nothing changes
  EXPECT_EQ(state.upper(ProgramKind::decode_after_block), 128);
  state.reset();
  EXPECT_FALSE(state.bound());
}

}  // namespace
}  // namespace limpet::engine
