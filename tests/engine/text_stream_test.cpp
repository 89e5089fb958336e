#include "engine/text_stream.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/tokenizer_utf8.h"

namespace limpet::engine {
namespace {

using Pieces = std::vector<std::string>;

Tokenizer kind(const std::string& name) {
  return Tokenizer::load(std::filesystem::path("tests/golden/tokenizers") / name);
}

struct Told {
  Pieces pieces;
  std::string text;
  bool stopped = false;
};

Told stream(const Tokenizer& tokenizer, std::span<const Token> ids,
            const std::vector<std::string>& stops) {
  TextStream s(tokenizer, stops);
  Told told;
  for (Token id : ids) {
    const auto piece = s.push(id);
    told.pieces.push_back(piece.text);
    told.text += piece.text;
    told.stopped = piece.stopped;
  }
  const auto rest = s.finish();
  told.pieces.push_back(rest.text);
  told.text += rest.text;
  told.stopped |= rest.stopped;
  return told;
}

class Streams : public testing::TestWithParam<const char*> {};

TEST_P(Streams, PiecesOfRandomIdsAreTheDecodedText) {
  const Tokenizer t = kind(GetParam());
  std::mt19937_64 random(5);
  for (int round = 0; round < 300; ++round) {
    std::vector<Token> ids(random() % 60);
    // Low ids are single bytes: broken characters of every sort.
    const uint64_t below = random() % 2 == 0 ? 300 : static_cast<uint64_t>(t.vocab_size()) + 5;
    for (Token& id : ids) id = static_cast<Token>(random() % below);
    const Told told = stream(t, ids, {});
    EXPECT_EQ(told.text, t.decode(ids, true));
    for (const std::string& piece : told.pieces) EXPECT_TRUE(valid_utf8(piece));
    EXPECT_EQ(told.pieces, stream(t, ids, {}).pieces);  // replayed
  }
}

TEST_P(Streams, ReferenceTextsSurvive) {
  const Tokenizer t = kind(GetParam());
  std::ifstream in(std::filesystem::path("tests/golden/tokenizers") / GetParam() / "cases.json");
  for (const auto& c : nlohmann::json::parse(in)) {
    const auto ids = c["ids_no_special"].get<std::vector<Token>>();
    EXPECT_EQ(stream(t, ids, {"never\x01there"}).text, t.decode(ids, true));
  }
}

// Which text is told does not depend on how it is cut into tokens.
TEST_P(Streams, StopsAsADefinitionOverBytes) {
  const Tokenizer t = kind(GetParam());
  std::mt19937_64 random(17);
  for (int round = 0; round < 400; ++round) {
    std::string text = "x";
    for (uint64_t i = 0; i < random() % 30; ++i) text += "ab"[random() % 2];
    std::vector<std::string> stops(1 + random() % 3);
    for (auto& stop : stops) {
      for (uint64_t i = 0; i < 1 + random() % 4; ++i) stop += "ab"[random() % 2];
    }
    // The stop that ends first; among those the longest.
    size_t end = std::string::npos, length = 0;
    for (const auto& stop : stops) {
      const size_t at = text.find(stop);
      if (at == std::string::npos) continue;
      if (at + stop.size() < end) {
        end = at + stop.size();
        length = 0;
      }
      if (at + stop.size() == end) length = std::max(length, stop.size());
    }
    const std::string want = end == std::string::npos ? text : text.substr(0, end - length);
    const Told told = stream(t, t.encode(text, false).ids, stops);
    EXPECT_EQ(told.text, want) << text;
    EXPECT_EQ(told.stopped, end != std::string::npos) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, Streams,
                         testing::Values("qwen2-style", "llama3-style", "gpt2-style",
                                         "llama2-style"),
                         [](const auto& info) {
                           const std::string name = info.param;
                           return name.substr(0, name.find('-'));
                         });

TEST(TextStream, AnEmojiComesWithItsLastByte) {
  const Tokenizer t = kind("gpt2-style");
  std::vector<Token> bytes;
  for (char b : std::string("\U0001F469")) {  // one token a byte
    for (Token id = 0; id < t.vocab_size(); ++id) {
      if (t.token_bytes(id) == std::string_view(&b, 1)) bytes.push_back(id);
    }
  }
  ASSERT_EQ(bytes.size(), 4u);
  EXPECT_EQ(stream(t, bytes, {}).pieces, (Pieces{"", "", "", "\U0001F469", ""}));
  bytes.pop_back();
  EXPECT_EQ(stream(t, bytes, {}).pieces, (Pieces{"", "", "", "\uFFFD"}));
}

TEST(TextStream, HoldsBackWhatMayBeginAStop) {
  const Tokenizer t = kind("gpt2-style");
  std::vector<Token> ids;
  for (char c : std::string("a STO STOP b")) {
    ids.push_back(*t.find(c == ' ' ? "\u0120" : std::string(1, c)));
  }
  const Told told = stream(t, ids, {"STOP"});
  EXPECT_EQ(told.pieces, (Pieces{"a", " ", "", "", "", "STO ", "", "", "", "", "", "", ""}));
  EXPECT_TRUE(told.stopped);
  ids.resize(9);  // "a STO STO": no stop after all
  EXPECT_EQ(stream(t, ids, {"STOP"}).text, "a STO STO");
  EXPECT_FALSE(stream(t, ids, {"STOP"}).stopped);
}

TEST(TextStream, SkipsSpecialTokensAndIgnoresImpossibleStops) {
  const Tokenizer t = Tokenizer::load("models/limpet-tiny");
  const TokenIds ids = t.encode("Hello<|im_end|> there", false);
  EXPECT_EQ(stream(t, ids.ids, {"", "\xA0", "<|im_end|>"}).text, "Hello there");
}

}  // namespace
}  // namespace limpet::engine
