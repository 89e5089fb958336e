#include "schema/types.h"

#include <gtest/gtest.h>

#include <set>

namespace limpet {
namespace {

template <typename E>
void expect_names(E last) {
  std::set<std::string_view> seen;
  for (int i = 0; i <= raw(last); ++i) seen.insert(name(static_cast<E>(i)));
  EXPECT_EQ(seen.size(), raw(last) + 1u);
  EXPECT_FALSE(seen.contains("unknown"));
  EXPECT_FALSE(seen.contains(""));
  EXPECT_EQ(name(static_cast<E>(raw(last) + 1)), "unknown");
}

TEST(Types, EveryEnumeratorHasItsOwnName) {
  expect_names(JobState::expired);
  expect_names(SessionState::running);
  expect_names(Residency::reprefilled);
  expect_names(Reason::model_changed);
  expect_names(FinishReason::expired);
  expect_names(ErrorCode::forbidden);
  EXPECT_EQ(name(ErrorCode::attempts_exhausted), "attempts_exhausted");
  EXPECT_EQ(name(Reason::start_deadline), "start_deadline");
}

TEST(Types, StatesThatEndAJob) {
  EXPECT_FALSE(is_terminal(JobState::running));
  EXPECT_TRUE(is_terminal(JobState::finished));
  EXPECT_TRUE(is_terminal(JobState::expired));
}

}  // namespace
}  // namespace limpet
