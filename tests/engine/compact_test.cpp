#include <gtest/gtest.h>

#include "engine/engine.h"

namespace limpet::engine {
namespace {

using Rows = std::vector<float>;

TEST(Compact, DropsThePaddingBetweenPastAndNewRows) {
  // kv_dim 2, a bucket of 3, past_len 3 of which one row is new and stands after the bucket.
  const Rows buffer = {1, 1.1f, 2, 2.1f, 0, 0, 9, 9.1f};
  EXPECT_EQ(compact(buffer, 2, 3, 3, 1), (Rows{1, 1.1f, 2, 2.1f, 9, 9.1f}));
}

TEST(Compact, AFullBucketAndNoNewRows) {
  const Rows buffer = {1, 2, 3};
  EXPECT_EQ(compact(buffer, 1, 2, 3, 1), buffer);
  EXPECT_EQ(compact(buffer, 1, 3, 2, 0), (Rows{1, 2}));
  EXPECT_EQ(compact(buffer, 1, 0, 3, 3), buffer);
}

TEST(Compact, LengthsThatDoNotFitAreRefused) {
  const Rows buffer = {1, 2, 3};
  EXPECT_FALSE(compact(buffer, 1, 3, 3, 1));   // buffer too short
  EXPECT_FALSE(compact(buffer, 2, 1, 1, 0));   // no whole rows
  EXPECT_FALSE(compact(buffer, 1, 2, 4, 1));   // more past than the bucket holds
  EXPECT_FALSE(compact(buffer, 1, 2, 0, 1));   // new rows that are not in the past
  EXPECT_FALSE(compact(buffer, 0, 2, 3, 1));
}

}  // namespace
}  // namespace limpet::engine
