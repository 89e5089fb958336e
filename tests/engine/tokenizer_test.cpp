#include "engine/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/tokenizer_bpe.h"
#include "engine/tokenizer_normalize.h"
#include "engine/tokenizer_utf8.h"

namespace limpet::engine {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

const fs::path kGolden = "tests/golden/tokenizers";

class Kinds : public testing::TestWithParam<const char*> {};

// The reference's ids and text, made by Hugging Face's tokenizers library.
TEST_P(Kinds, AgreesWithTheReference) {
  const auto tokenizer = Tokenizer::load(kGolden / GetParam());
  std::ifstream in(kGolden / GetParam() / "cases.json");
  const Json cases = Json::parse(in);
  ASSERT_GE(cases.size(), 100u);
  for (const Json& c : cases) {
    const auto text = c["text"].get<std::string>();
    EXPECT_EQ(tokenizer.encode(text, true).ids, c["ids"].get<std::vector<Token>>()) << text;
    const auto plain = c["ids_no_special"].get<std::vector<Token>>();
    EXPECT_EQ(tokenizer.encode(text, false).ids, plain) << text;
    EXPECT_EQ(tokenizer.decode(plain, false), c["decoded"].get<std::string>());
  }
}

TEST_P(Kinds, TakesAnyBytes) {
  const auto tokenizer = Tokenizer::load(kGolden / GetParam());
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string bytes(random() % 40, '\0');
    for (char& b : bytes) b = static_cast<char>(random());
    const TokenIds ids = tokenizer.encode(bytes, true);
    EXPECT_TRUE(ids.ok()) << ids.error;
    EXPECT_EQ(ids.ids, tokenizer.encode(replace_bad_utf8(bytes), true).ids);
    EXPECT_TRUE(valid_utf8(tokenizer.decode(ids.ids, false)));
  }
}

// A megabyte without a space is one piece of a byte-level split; merging it must not be quadratic
// (which would take minutes).
TEST_P(Kinds, LongPiecesStayFast) {
  const auto tokenizer = Tokenizer::load(kGolden / GetParam());
  std::mt19937_64 random(11);
  std::string letters(1 << 20, ' ');
  for (char& c : letters) c = static_cast<char>('a' + random() % 26);
  std::string marks = "e";
  for (int i = 0; i < 1 << 18; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0323";
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& text :
       {letters, marks, std::string(1 << 20, 'a'), std::string(1 << 20, ' ') + "x",
        std::string(1 << 20, '\n'), std::string(1 << 20, '1')}) {
    const TokenIds ids = tokenizer.encode(text, false);
    EXPECT_TRUE(ids.ok()) << ids.error;
    EXPECT_FALSE(ids.ids.empty());
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(120));
}

INSTANTIATE_TEST_SUITE_P(Golden, Kinds,
                         testing::Values("qwen2-style", "llama3-style", "gpt2-style",
                                         "llama2-style"),
                         [](const auto& info) {
                           const std::string name = info.param;
                           return name.substr(0, name.find('-'));
                         });

// What the heap does must be what the definition says: merge the lowest rank, leftmost first.
std::vector<Token> naive_bpe(std::vector<Token> ids, const std::vector<Bpe::Merge>& merges) {
  for (;;) {
    size_t best = merges.size(), at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best; ++rank) {
        if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) {
          best = rank;
          at = i;
        }
      }
    }
    if (best == merges.size()) return ids;
    ids[at] = merges[best].merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(Bpe, HeapEqualsDefinition) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 200; ++round) {
    Vocabulary vocabulary{{"a", 0}, {"b", 1}, {"c", 2}};
    std::vector<std::string> contents{"a", "b", "c"};
    std::vector<Bpe::Merge> merges;
    for (int m = 0; m < 12; ++m) {
      const auto l = static_cast<Token>(random() % contents.size());
      const auto r = static_cast<Token>(random() % contents.size());
      const bool known = std::any_of(merges.begin(), merges.end(), [&](const auto& other) {
        return other.left == l && other.right == r;
      });
      const std::string joined = contents[l] + contents[r];
      if (known || vocabulary.contains(joined)) continue;
      const auto id = static_cast<Token>(contents.size());
      vocabulary[joined] = id;
      contents.push_back(joined);
      merges.push_back({l, r, id});
    }
    const Bpe bpe(Bpe::Options{}, vocabulary, merges);
    std::string piece;
    std::vector<Token> symbols;
    for (size_t i = 0; i < 1 + random() % 60; ++i) {
      symbols.push_back(static_cast<Token>(random() % 3));
      piece += contents[symbols.back()];
    }
    Bpe::Scratch scratch;
    std::vector<Token> ids;
    bpe.encode(piece, scratch, ids);
    EXPECT_EQ(ids, naive_bpe(symbols, merges)) << piece;
  }
}

// ---- Files of our own, small enough to reason about -------------------------------------------

class Files : public testing::Test {
 protected:
  Files() : folder_(fs::path(testing::TempDir()) / "limpet_tokenizer_test") {
    fs::create_directories(folder_);
  }
  ~Files() override { fs::remove_all(folder_); }

  Tokenizer load(const Json& json) {
    std::ofstream(folder_ / "tokenizer.json") << json.dump();
    return Tokenizer::load(folder_);
  }
  std::string refusal(const Json& json) {
    try {
      load(json);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  }
  // Characters a to e, and what `merges` make of them.
  static Json small() {
    return Json::parse(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3,
        "\u2581": 4, " ": 5, "<x>": 6}, "merges": ["a b"]},
        "decoder": {"type": "Fuse"}})");
  }
  fs::path folder_;
};

TEST_F(Files, AddedTokensTakeSpacesAndWholeWordsAsTheySay) {
  Json json = small();
  json["added_tokens"] = Json::parse(R"([
      {"id": 7, "content": "<l>", "lstrip": true, "normalized": false, "special": true},
      {"id": 8, "content": "<r>", "rstrip": true, "normalized": false, "special": true},
      {"id": 9, "content": "cc", "single_word": true, "normalized": false, "special": false},
      {"id": 10, "content": "ccab", "normalized": false, "special": false}])");
  const Tokenizer t = load(json);
  EXPECT_EQ(t.encode("a  <l> b", false).ids, (std::vector<Token>{0, 7, 5, 1}));
  EXPECT_EQ(t.encode("a  <r>  b", false).ids, (std::vector<Token>{0, 5, 5, 8, 1}));
  EXPECT_EQ(t.encode("cc a", false).ids, (std::vector<Token>{9, 5, 0}));
  EXPECT_EQ(t.encode("acc", false).ids, (std::vector<Token>{0, 2, 2}));
  for (const char* word : {"\u2165", "\u24b6", "\U0001f130", "\u200d", "\u0301", "_", "\u0669"}) {
    EXPECT_NE(t.encode(std::string("cc") + word, false).ids.front(), 9) << word;
  }
  EXPECT_EQ(t.encode("ccab", false).ids, (std::vector<Token>{10}));  // the longest
  EXPECT_TRUE(t.special(7));
  EXPECT_FALSE(t.special(9));
  EXPECT_EQ(t.decode(std::vector<Token>{0, 7, 1}, true), "ab");
  EXPECT_EQ(t.decode(std::vector<Token>{0, 7, 1}, false), "a<l>b");
  EXPECT_FALSE(t.has(11));
  EXPECT_EQ(t.decode(std::vector<Token>{11, -1, 1 << 30, 0}, false), "a");
  EXPECT_EQ(t.find("<r>"), 8);
  EXPECT_EQ(t.find("nothing"), std::nullopt);
}

TEST_F(Files, NormalizedAddedTokensAreFoundAfterNormalization) {
  Json json = small();
  json["normalizer"] = {{"type", "NFC"}};
  json["added_tokens"] =
      Json::parse(R"([{"id": 7, "content": "\u00e9", "normalized": true, "special": false}])");
  EXPECT_EQ(load(json).encode("ae\u0301b", false).ids, (std::vector<Token>{0, 7, 1}));
  json["normalizer"] = {{"type", "NFD"}};
  EXPECT_EQ(load(json).decode(std::vector<Token>{0, 7, 1}, false), "ae\u0301b");
}

// tokenizers 0.23 gives these files' tokens the same numbers.
TEST_F(Files, AddedTokensAreNumberedFromTheVocabularysEndWhateverTheFileSays) {
  Json json = small();
  json["added_tokens"] = Json::parse(R"([
      {"id": 12, "content": "<w>", "special": true}, {"id": 13, "content": "b"},
      {"id": 14, "content": "<y>"}])");
  const Tokenizer t = load(json);
  EXPECT_EQ(t.encode("<w>b<y>", false).ids, (std::vector<Token>{7, 1, 8}));
  EXPECT_EQ(t.find("<y>"), 8);
  EXPECT_FALSE(t.has(12));
}

TEST_F(Files, PostProcessorsNest) {
  Json json = small();
  json["added_tokens"] = Json::parse(R"([{"id": 7, "content": "B"}, {"id": 8, "content": "E"},
                                         {"id": 9, "content": "F"}])");
  json["post_processor"] = Json::parse(R"({"type": "Sequence", "processors": [
      {"type": "ByteLevel"},
      {"type": "TemplateProcessing",
       "single": [{"SpecialToken": {"id": "B"}}, {"Sequence": {"id": "A"}},
                  {"SpecialToken": {"id": "E"}}],
       "special_tokens": {"B": {"ids": [7]}, "E": {"ids": [8, 9]}}}]})");
  const Tokenizer t = load(json);
  EXPECT_EQ(t.encode("ab", true).ids, (std::vector<Token>{7, 3, 8, 9}));
  EXPECT_EQ(t.encode("ab", false).ids, (std::vector<Token>{3}));
}

TEST_F(Files, MetaspaceMarksAndSplits) {
  Json json = small();
  json["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}};
  json["decoder"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}};
  const Tokenizer t = load(json);
  EXPECT_EQ(t.encode("ab  a", false).ids, (std::vector<Token>{4, 3, 4, 4, 0}));
  EXPECT_EQ(t.decode(std::vector<Token>{4, 3, 4, 4, 0}, false), "ab  a");
}

TEST_F(Files, SplitBehaviors) {
  const std::vector<std::pair<std::string, std::vector<Token>>> cases{
      // "acab": what may merge (a b) depends on where c cuts and joins.
      {"Removed", {0, 3}},
      {"Isolated", {0, 2, 3}},
      {"MergedWithPrevious", {0, 2, 3}},
      {"MergedWithNext", {0, 2, 3}},
      {"Contiguous", {0, 2, 3}}};
  for (const auto& [behavior, ids] : cases) {
    Json json = small();
    json["pre_tokenizer"] = {{"type", "Split"},
                             {"pattern", {{"String", "c"}}},
                             {"behavior", behavior},
                             {"invert", false}};
    EXPECT_EQ(load(json).encode("acab", false).ids, ids) << behavior;
  }
  Json json = small();  // each b is a piece of its own with what is before it
  json["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "a"}}},
                           {"behavior", "MergedWithPrevious"},
                           {"invert", false}};
  EXPECT_EQ(load(json).encode("cab", false).ids, (std::vector<Token>{2, 0, 1}));
  json["pre_tokenizer"]["behavior"] = "MergedWithNext";
  EXPECT_EQ(load(json).encode("cab", false).ids, (std::vector<Token>{2, 3}));
}

TEST_F(Files, WhiteSpaceIsUnicodesOfToday) {
  Json json = small();
  json["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "\\s|[\\sc]"}}},
                           {"behavior", "Removed"},
                           {"invert", false}};
  const Tokenizer t = load(json);
  EXPECT_EQ(t.encode("a\u2003b", false).ids, (std::vector<Token>{0, 1}));
  EXPECT_EQ(t.encode("a\u180eb", false).ids, (std::vector<Token>{3}));  // unknown, not a space
  EXPECT_EQ(t.encode("acb", false).ids, (std::vector<Token>{0, 1}));
  EXPECT_EQ(t.encode("ab", false).ids, (std::vector<Token>{3}));
}

// Ids of what is left when a pattern's matches are removed: each of the reference's.
TEST_F(Files, PatternsKnowUnicode16) {
  const auto left = [this](const std::string& pattern, const std::string& text) {
    Json json = small();
    json["pre_tokenizer"] = {{"type", "Split"},
                             {"pattern", {{"Regex", pattern}}},
                             {"behavior", "Removed"},
                             {"invert", false}};
    return load(json).encode(text, false).ids;
  };
  const std::string later = "a\U00031A7F\uA7CBb";  // of 15.0, Lo; of 16.0, Lu
  const std::vector<Token> nothing, both{0, 1};
  EXPECT_EQ(left("\\p{L}+", later), nothing);
  EXPECT_EQ(left("[x\\p{L}]+", later), nothing);
  EXPECT_EQ(left("[^\\s\\p{L}]+", later), left("!", later));
  EXPECT_EQ(left("\\P{L}+|\\p{^L}+", later), left("!", later));
  EXPECT_EQ(left("\\p{Lo}+\\p{Lu}", later), both);
  EXPECT_EQ(left("\\p{Lu}+\\p{Lo}", later), left("!", later));
  EXPECT_EQ(left("\\p{N}", "a\U0001E4F3b"), both);
  EXPECT_EQ(left("\\p{S}", "a\U0001FAE9b"), both);
  EXPECT_EQ(left("\\\\p\\{L\\}", "a\\p{L}b"), both);
  EXPECT_EQ(left("[\\p{N}\\P{Zs}]+", "ab"), nothing);
}

// Each as the reference splits it; what it means otherwise than PCRE2 would is refused.
TEST_F(Files, ClassesInClasses) {
  const auto left = [this](const std::string& pattern, const std::string& text) {
    Json json = small();
    json["pre_tokenizer"] = {{"type", "Split"},
                             {"pattern", {{"Regex", pattern}}},
                             {"behavior", "Removed"},
                             {"invert", false}};
    return load(json).encode(text, false).ids;
  };
  const std::vector<Token> both{0, 1};
  EXPECT_EQ(left("[[:digit:]\\s]+", "a1 2b"), both);
  EXPECT_EQ(left("[^[:alpha:]\\s]+", "a12b"), both);
  EXPECT_EQ(left("[\\s[:digit:]\\p{N}]", "a\U0001E4F3b"), both);
  EXPECT_EQ(left("[]1]", "a]b"), both);
  EXPECT_EQ(left("[:1]", "a:b"), both);
  EXPECT_EQ(left("[\\[1&]", "a[b"), both);
  EXPECT_EQ(left("&&", "a&&b"), both);
  for (const char* refused :
       {"[a[bc]]", "[a-c&&[^b]]", "[\\p{L}&&a]", "[[a]", "[a[:alpha]", "[[:a]b:]"}) {
    EXPECT_THROW(left(refused, "a"), std::runtime_error) << refused;
  }
}

TEST_F(Files, PunctuationIsThatOfUnicode8) {
  Json json = small();
  json["pre_tokenizer"] = {{"type", "Punctuation"}, {"behavior", "Removed"}};
  const Tokenizer t = load(json);
  const std::vector<Token> apart{0, 1};
  for (const char* mark : {"!", "\u3002", "\u166d", "$"}) {
    EXPECT_EQ(t.encode(std::string("a") + mark + "b", false).ids, apart) << mark;
  }
  for (const char* later : {"\u2e52", "\u061d", "\u2e43"}) {
    EXPECT_NE(t.encode(std::string("a") + later + "b", false).ids, apart) << later;
  }
}

TEST_F(Files, ByteFallbackRunsAreDecidedAsAWhole) {
  Json json = small();
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(b));
    json["model"]["vocab"][name] = 100 + b;
  }
  json["model"]["byte_fallback"] = true;
  json["decoder"] = Json::parse(R"({"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  const Tokenizer t = load(json);
  EXPECT_EQ(t.encode("a\u4f60", false).ids, (std::vector<Token>{0, 328, 289, 260}));
  EXPECT_EQ(t.decode(std::vector<Token>{328, 289, 260, 0}, false),
            "\u4f60"
            "a");
  EXPECT_EQ(t.decode(std::vector<Token>{328, 289, 260, 328, 0}, false),
            "\uFFFD\uFFFD\uFFFD\uFFFD"
            "a");
  EXPECT_EQ(t.decode(std::vector<Token>{4, 4, 0, 4}, false), " a ");
}

TEST_F(Files, RefusesByNameWhatItCannotDo) {
  EXPECT_NE(refusal({{"model", {{"type", "Unigram"}}}}).find("Unigram"), std::string::npos);
  Json json = small();
  json["normalizer"] = {{"type", "Nmt"}};
  EXPECT_NE(refusal(json).find("\"Nmt\" is not supported"), std::string::npos);
  json = small();
  json["model"]["merges"] = {"a z"};
  EXPECT_NE(refusal(json).find("\"z\" is not in the vocabulary"), std::string::npos);
  json = small();
  json["model"]["vocab"]["d"] = -4;
  EXPECT_NE(refusal(json).find("out of range"), std::string::npos);
  json = small();
  json["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(("}}}, {"behavior", "Isolated"}};
  EXPECT_NE(refusal(json).find("cannot read the pattern"), std::string::npos);
  json["pre_tokenizer"] = {{"type", "ByteLevel"}};
  for (int i = 0; i < 20; ++i) {
    json["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", Json::array({json["pre_tokenizer"]})}};
  }
  EXPECT_NE(refusal(json).find("nested too deeply"), std::string::npos);
  EXPECT_NE(refusal(Json::array()).find("cannot use"), std::string::npos);
  EXPECT_THROW(Tokenizer::load("models/no-such-model"), std::runtime_error);
}

// A few bytes of a file must not ask for gigabytes.
TEST_F(Files, NormalizersAndPreTokenizersCannotBlowUpText) {
  const Json ten_times = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(10, 'a')}};
  Json json = small();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array()}};
  for (int i = 0; i < 12; ++i) json["normalizer"]["normalizers"].push_back(ten_times);
  EXPECT_NE(load(json).encode("a", false).error.find("longer than"), std::string::npos);
  EXPECT_TRUE(load(json).encode("b", false).ok());

  json["normalizer"] = ten_times;
  json["normalizer"]["content"] = std::string(1 << 20, 'b');
  json["added_tokens"] = Json::parse(R"([{"id": 7, "content": "<y>", "special": true}])");
  std::string text;  // each part by itself is short enough
  for (int i = 0; i < 70; ++i) text += "a<y>";
  EXPECT_FALSE(load(json).encode(text, false).ok());

  json = small();
  for (int i = 0; i < 65; ++i) json["normalizer"]["normalizers"].push_back({{"type", "NFC"}});
  json["normalizer"]["type"] = "Sequence";
  EXPECT_NE(refusal(json).find("too many normalizers"), std::string::npos);
  json = small();
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  for (int i = 0; i < 65; ++i) json["pre_tokenizer"]["pretokenizers"].push_back(digits);
  json["pre_tokenizer"]["type"] = "Sequence";
  EXPECT_NE(refusal(json).find("too many pre-tokenizers"), std::string::npos);
}

TEST_F(Files, MetaspacesReplacementIsOneCharacter) {
  Json json = small();  // an empty one cut characters in two
  for (const char* replacement : {"", "__"}) {
    json["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", replacement}};
    EXPECT_NE(refusal(json).find("one character"), std::string::npos);
  }
}

TEST_F(Files, TokensAreBounded) {
  Json json = small();
  json["model"]["vocab"]["far"] = (1 << 24) - 1;
  EXPECT_NE(refusal(json).find("there are only 8 tokens"), std::string::npos);
  json["model"]["vocab"]["far"] = 50000;  // holes there may be
  EXPECT_EQ(load(json).vocab_size(), 50001);

  json = small();
  json["added_tokens"] = {{{"id", 7}, {"content", std::string(50'000, 'a')}}};
  EXPECT_NE(refusal(json).find("more than 4096 bytes"), std::string::npos);
  json["added_tokens"] = {{{"id", 7}, {"content", std::string(4096, 'a')}}};
  EXPECT_EQ(load(json).encode(std::string(4096, 'a'), false).ids, std::vector<Token>{7});

  json = small();  // decoding's replacements grow a token
  json["decoder"] = {{"type", "Sequence"}, {"decoders", Json::array()}};
  for (int i = 0; i < 12; ++i) {
    json["decoder"]["decoders"].push_back(
        {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(10, 'a')}});
  }
  EXPECT_NE(refusal(json).find("more than 4096 bytes"), std::string::npos);
}

TEST_F(Files, PostProcessorsAddWhatIsInTheVocabulary) {
  for (const int id : {8, 100, 1 << 20}) {
    Json json = small();
    json["added_tokens"] = {{{"id", 7}, {"content", "B"}}};
    json["post_processor"] = {{"type", "BertProcessing"}, {"cls", {"B", 7}}, {"sep", {"E", id}}};
    EXPECT_NE(refusal(json).find("the id " + std::to_string(id)), std::string::npos);
    json["post_processor"]["sep"] = {"b", 1};
    EXPECT_EQ(load(json).encode("a", true).ids, (std::vector<Token>{7, 0, 1}));
  }
  Json json = small();
  json["post_processor"] = {{"type", "TemplateProcessing"},
                            {"single", Json::array({{{"SpecialToken", {{"id", "B"}}}}})},
                            {"special_tokens", {{"B", {{"ids", std::vector<int>(300, 1)}}}}}};
  EXPECT_NE(refusal(json).find("too many tokens"), std::string::npos);
}

TEST_F(Files, DeepJsonIsRefusedBeforeItIsBuilt) {
  const std::string deep = R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [)" +
                           std::string(1 << 20, '[') + std::string(1 << 20, ']') + "]}}";
  try {
    Tokenizer::parse(deep);
    ADD_FAILURE() << "was accepted";
  } catch (const std::runtime_error& e) {
    EXPECT_NE(std::string(e.what()).find("nested too deeply"), std::string::npos);
  }
}

TEST(Normalize, LongRunsOfMarksAreOrderedFast) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  std::string want = "e";
  text.insert(0, "e");
  std::vector<Normalizer> nfd;
  nfd.emplace_back(UnicodeForm{false, false});
  EXPECT_EQ(normalize(nfd, text, Tokenizer::kMaxText), "");
  for (int i = 0; i < 100'000; ++i) want += "\u0323";
  for (int i = 0; i < 100'000; ++i) want += "\u0301";
  EXPECT_EQ(text == want, true);
}

TEST(Utf8, BadSequencesAsTheStandardRecommends) {
  // Unicode 15, table 3-8 and its neighbours.
  EXPECT_EQ(replace_bad_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
                             "A"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
            "A");
  EXPECT_EQ(replace_bad_utf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
                             "A"),
            "\uFFFD\uFFFD\uFFFD\uFFFD"
            "A");
  EXPECT_EQ(replace_bad_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_TRUE(valid_utf8("\u00e9\u4f60\U0001F642"));
}

}  // namespace
}  // namespace limpet::engine
