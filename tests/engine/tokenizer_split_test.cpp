// Pre-tokenizers against the reference's ids, made by Hugging Face's tokenizers library.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/tokenizer.h"
#include "engine/tokenizer_pattern_syntax.h"

namespace limpet::engine {
namespace {

using Json = nlohmann::json;

Json read_json(const std::filesystem::path& path) {
  std::ifstream in(path);
  return Json::parse(in);
}

TEST(PreTokenizers, AgreeWithTheReference) {
  const std::filesystem::path folder = "tests/golden/tokenizers";
  const Json golden = read_json(folder / "pre_tokenizers" / "cases.json");
  ASSERT_GE(golden["cases"].size(), 40u);
  for (const Json& c : golden["cases"]) {
    Json json = read_json(folder / c["model"].get<std::string>() / "tokenizer.json");
    json["normalizer"] = nullptr;
    json["pre_tokenizer"] = c["pre_tokenizer"];
    const Tokenizer tokenizer = Tokenizer::parse(json.dump());
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      const auto text = golden["texts"][i].get<std::string>();
      EXPECT_EQ(tokenizer.encode(text, false).ids, c["ids"][i].get<std::vector<Token>>())
          << c["pre_tokenizer"] << ": " << golden["texts"][i];
    }
  }
}

TEST(PatternSyntax, WhatItCannotSayIsRefused) {
  for (const char* pattern : {"[a[b]]", "[a&&b]", "[\\W]", "[^\\H]", "[[:^alpha:]]", "[[:graph:]]",
                              "[\\P{Alpha}]", "\\Qa\\E", "\\V", "(?s:.)"}) {
    EXPECT_THROW(to_pcre2(pattern), std::runtime_error) << pattern;
  }
}

TEST(PatternSyntax, WhatIsTheSameStays) {
  for (const char* same :
       {"", "a|b", "(?i:'s|'t)", "(?<=a)b", "(?<n>a)\\k<n>", "x{2,3}?y{2}z*+", "\\x{85}+", "[]a]",
        "[^]a]", "\\[a\\]", "{a}", "a{", "[", "\\", "(?", "\\p{L", "[[:cntrl:]]"}) {
    EXPECT_EQ(to_pcre2(same), same);
  }
  EXPECT_EQ(to_pcre2("a{,3}"), "a{0,3}");
  EXPECT_EQ(to_pcre2("(a|b){2}+"), "(?:(a|b){2})+");
  EXPECT_EQ(to_pcre2("x\u00e9{2}?"), "x(?:\u00e9{2})?");
  EXPECT_EQ(to_pcre2("(?mi-x:.)"), "(?si-x:.)");
}

}  // namespace
}  // namespace limpet::engine
