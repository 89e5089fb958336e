#include "backends/gpu/kernel_choice.h"

#include <gtest/gtest.h>

#include <limits>

namespace limpet {
namespace {

using Numbers = std::vector<size_t>;

// Each product takes its candidate's time, alone.
double sum_of(const std::vector<std::vector<double>>& times, const Numbers& chosen) {
  double sum = 0;
  for (size_t i = 0; i < chosen.size(); ++i) sum += times[i][chosen[i]];
  return sum;
}

TEST(Descend, FindsTheFastestOfEachProduct) {
  const std::vector<std::vector<double>> times = {{5, 3, 4}, {2}, {9, 9, 1, 2}};
  const Numbers counts = {3, 1, 4};
  const auto best = descend(counts, {0, 0, 1}, 0.01,
                            [&](const Numbers& c) { return sum_of(times, c); });
  EXPECT_EQ(best.numbers, (Numbers{1, 0, 2}));
  EXPECT_EQ(best.seconds, 6);
  EXPECT_EQ(best.at_start, 16);
}

TEST(Descend, KeepsWhatItBeganWithUnlessTheGainIsLarger) {
  const std::vector<std::vector<double>> times = {{100, 99.5, 98}};
  const auto seconds = [&](const Numbers& c) { return sum_of(times, c); };
  EXPECT_EQ(descend(Numbers{2}, {0}, 0.01, seconds).numbers, Numbers{0});
  EXPECT_EQ(descend(Numbers{3}, {0}, 0.01, seconds).numbers, Numbers{2});
}

TEST(Descend, NeverKeepsWhatCannotBe) {
  const auto seconds = [](const Numbers& c) {
    return c[0] == 0 ? 1.0 : std::numeric_limits<double>::infinity();
  };
  EXPECT_EQ(descend(Numbers{3}, {0}, 0.01, seconds).numbers, Numbers{0});
  // Nor stays with it when it is what it began with.
  EXPECT_EQ(descend(Numbers{3}, {2}, 0.01, seconds).numbers, Numbers{0});
}

// What is fastest for one product may depend on the others: the whole is timed, not its parts.
TEST(Descend, TimesTheWhole) {
  size_t calls = 0;
  const auto best = descend(Numbers{2, 2}, {0, 0}, 0.01, [&](const Numbers& c) {
    ++calls;
    return c == Numbers{1, 1} ? 1.0 : c == Numbers{1, 0} ? 2.0 : 3.0;
  });
  EXPECT_EQ(best.numbers, (Numbers{1, 1}));
  EXPECT_EQ(calls, 3u);
}

// Two products that are only fast together, as the vendor's that share a norm.
TEST(DescendFromEach, FindsWhatNoSingleChangeLeadsTo) {
  const auto seconds = [](const Numbers& c) {
    return c == Numbers{1, 1} ? 0.9 : c == Numbers{0, 0} ? 1.0 : c[0] == 2 ? 0.5 : 2.0;
  };
  EXPECT_EQ(descend(Numbers{2, 2}, {0, 0}, 0.01, seconds).numbers, (Numbers{0, 0}));
  EXPECT_EQ(descend_from_each(Numbers{2, 2}, {{0, 0}, {1, 1}}, 0.01, seconds).numbers,
            (Numbers{1, 1}));
  EXPECT_EQ(descend_from_each(Numbers{2, 2}, {{1, 1}, {0, 0}}, 0.01, seconds).numbers,
            (Numbers{1, 1}));
  EXPECT_EQ(descend_from_each(Numbers{3, 2}, {{0, 0}, {1, 1}}, 0.01, seconds).numbers,
            (Numbers{2, 0}));
}

TEST(DescendFromEach, KeepsTheFirstUnlessTheGainIsLarger) {
  const auto seconds = [](const Numbers& c) {
    return c == Numbers{0, 0} ? 1.0 : c == Numbers{1, 1} ? 0.995 : 2.0;
  };
  EXPECT_EQ(descend_from_each(Numbers{2, 2}, {{0, 0}, {1, 1}}, 0.01, seconds).numbers,
            (Numbers{0, 0}));
  // What was not timed in time is not kept.
  const auto late = [&](const Numbers& c) {
    return c == Numbers{0, 0} ? 1.0 : std::numeric_limits<double>::infinity();
  };
  EXPECT_EQ(descend_from_each(Numbers{2, 2}, {{0, 0}, {1, 1}}, 0.01, late).numbers,
            (Numbers{0, 0}));
}

// Time runs out in the second descent: what it had found by then is kept, nothing is timed again.
TEST(DescendFromEach, KeepsWhatWasFoundWhenTimeRanOut) {
  size_t calls = 0;
  const auto seconds = [&](const Numbers& c) {
    if (++calls > 5) return std::numeric_limits<double>::infinity();
    return c == Numbers{1, 1} ? 0.5 : c == Numbers{0, 0} ? 1.0 : 2.0;
  };
  const Descent best = descend_from_each(Numbers{2, 2}, {{0, 0}, {1, 1}}, 0.01, seconds);
  EXPECT_EQ(best.numbers, (Numbers{1, 1}));
  EXPECT_EQ(best.seconds, 0.5);
  EXPECT_EQ(best.at_start, 1.0);
  EXPECT_EQ(calls, 6u);
}

TEST(DescendFromEach, TellsThatNothingCouldBe) {
  const auto never = [](const Numbers&) { return std::numeric_limits<double>::infinity(); };
  const Descent best = descend_from_each(Numbers{2, 2}, {{0, 0}, {1, 1}}, 0.01, never);
  EXPECT_EQ(best.numbers, (Numbers{0, 0}));
  EXPECT_EQ(best.seconds, std::numeric_limits<double>::infinity());
}

TEST(ChoiceTable, ReadsWhatItWrote) {
  ChoiceTable a, b;
  a.put("card, 132 processors|rows=64", {"skinny 2 4", "vendor 3"});
  a.put("card|head", {"streamed 128 2 1 2"});
  EXPECT_EQ(b.read(a.text()), "");
  EXPECT_EQ(b.text(), a.text());
  ASSERT_NE(b.find("card|head"), nullptr);
  EXPECT_EQ(*b.find("card|head"), ChoiceTable::Names{"streamed 128 2 1 2"});
  EXPECT_EQ(b.find("card"), nullptr);
}

TEST(ChoiceTable, TellsWhatIsWrongAndAddsNothing) {
  const std::string format = ChoiceTable().text();
  const std::string bad[] = {
      "", "limpet kernel choices 2\n", "x", format + "key\n", format + "good\tname\n\tname\n",
      format + "key\tna\x01me\n", format + "key\t" + std::string(600, 'x') + "\n",
      format + "key\t\t\n", format + std::string(1 << 20, 'x')};
  std::string many = format + "key";
  for (int i = 0; i < 17; ++i) many += "\tname";
  ChoiceTable table;
  table.put("old", {"name"});
  for (const std::string& text : bad) {
    EXPECT_NE(table.read(text), "") << text.substr(0, 60);
  }
  EXPECT_NE(table.read(many + "\n"), "");
  EXPECT_EQ(table.size(), 1u);
  EXPECT_THROW(table.put("a\tb", {"name"}), std::logic_error);
  EXPECT_THROW(table.put("key", {}), std::logic_error);
}

}  // namespace
}  // namespace limpet
