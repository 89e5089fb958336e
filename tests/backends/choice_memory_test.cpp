#include "backends/gpu/choice_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace limpet {
namespace {

class ChoiceFile : public ::testing::Test {
 protected:
  ChoiceFile() { std::filesystem::create_directories(folder_); }
  ~ChoiceFile() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_ = std::filesystem::temp_directory_path() /
                                  ("limpet-choices-" + std::to_string(getpid()));
  std::string path_ = (folder_ / "choices").string();
};

TEST_F(ChoiceFile, IsReadByTheNextProcessAndKeepsWhatOthersAdded) {
  ChoiceMemory a, b, c;
  EXPECT_EQ(a.keep_in(path_), "");
  EXPECT_EQ(b.keep_in(path_), "");
  a.put("one", {"x"});
  b.put("two", {"y"});
  EXPECT_EQ(c.keep_in(path_), "");
  EXPECT_EQ(c.find("one"), ChoiceTable::Names{"x"});
  EXPECT_EQ(c.find("two"), ChoiceTable::Names{"y"});
  EXPECT_EQ(a.find("two"), std::nullopt);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

// Two engines of a process compute the same bits, whatever other processes find meanwhile.
TEST_F(ChoiceFile, DoesNotChangeWhatTheProcessKnowsAndGetsIt) {
  ChoiceMemory a, b, c;
  EXPECT_EQ(a.keep_in(path_), "");
  a.put("one", {"x"});
  b.put("one", {"other"});
  b.put("two", {"y"});
  EXPECT_EQ(b.keep_in(path_), "");
  EXPECT_EQ(b.find("one"), ChoiceTable::Names{"other"});
  EXPECT_EQ(c.keep_in(path_), "");
  EXPECT_EQ(c.find("one"), ChoiceTable::Names{"other"});
  EXPECT_EQ(c.find("two"), ChoiceTable::Names{"y"});
}

TEST_F(ChoiceFile, ThatIsBrokenIsToldAndWrittenAnew) {
  std::ofstream(path_) << "something else\n";
  ChoiceMemory a, b;
  EXPECT_NE(a.keep_in(path_), "");
  a.put("one", {"x"});
  EXPECT_EQ(b.keep_in(path_), "");
  EXPECT_EQ(b.find("one"), ChoiceTable::Names{"x"});
}

TEST_F(ChoiceFile, ThatCannotBeWrittenIsTold) {
  ChoiceMemory a;
  EXPECT_EQ(a.keep_in((folder_ / "none" / "choices").string()), "");
  EXPECT_TRUE(a.news().empty());
  a.tell("first");
  a.put("one", {"x"});
  const auto news = a.news();
  ASSERT_EQ(news.size(), 2u);
  EXPECT_EQ(news[0], "first");
  EXPECT_NE(news[1].find(folder_.string()), std::string::npos) << news[1];
  EXPECT_TRUE(a.news().empty());
  EXPECT_EQ(a.find("one"), ChoiceTable::Names{"x"});
}

}  // namespace
}  // namespace limpet
