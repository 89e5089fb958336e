#include "clients/tokenize/tokenize.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

namespace limpet::client {
namespace {

using Json = nlohmann::json;

const std::string kFolder = "tests/golden/tokenizers/llama2-style";

class Tokenize : public testing::Test {
 protected:
  std::string line(const std::string& in, TokenizeOptions options = {}) {
    return tokenize_line(tokenizer_, in, options);
  }
  std::string refusal(const std::string& in, TokenizeOptions options = {}) {
    try {
      line(in, options);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  }
  engine::Tokenizer tokenizer_ = engine::Tokenizer::load(kFolder);
};

TEST_F(Tokenize, LinesAgreeWithTheReference) {
  std::ifstream file(kFolder + "/cases.json");
  const Json cases = Json::parse(file);
  std::stringstream in, plain, out, out_plain, ids, text;
  for (const Json& c : cases) {
    in << Json{{"text", c["text"]}} << "\n\n";
    ids << Json{{"ids", c["ids_no_special"]}} << "\r\n";
  }
  plain << in.str();
  tokenize_lines(tokenizer_, in, out, {});
  tokenize_lines(tokenizer_, plain, out_plain, {.decode = false, .with_special = false});
  tokenize_lines(tokenizer_, ids, text, {.decode = true});
  for (const Json& c : cases) {
    std::string got;
    ASSERT_TRUE(std::getline(out, got));
    EXPECT_EQ(Json::parse(got), (Json{{"ids", c["ids"]}}));
    ASSERT_TRUE(std::getline(out_plain, got));
    EXPECT_EQ(Json::parse(got), (Json{{"ids", c["ids_no_special"]}}));
    ASSERT_TRUE(std::getline(text, got));
    EXPECT_EQ(Json::parse(got), (Json{{"text", c["decoded"]}}));
  }
}

TEST_F(Tokenize, BadLinesSayWhatIsWrong) {
  const TokenizeOptions decode{.decode = true};
  EXPECT_NE(refusal("{").find("not JSON"), std::string::npos);
  EXPECT_NE(refusal("[]").find("not a JSON object"), std::string::npos);
  EXPECT_NE(refusal(R"({"text": 3})").find("expected {\"text\""), std::string::npos);
  EXPECT_NE(refusal(R"({"text": "a"})", decode).find("expected {\"ids\""), std::string::npos);
  for (const char* id : {"-1", "3000", "1.5", "\"a\"", "99999999999999999999", "4294967297"}) {
    EXPECT_NE(refusal(std::string("{\"ids\": [") + id + "]}", decode).find("no such token"),
              std::string::npos);
  }
  std::stringstream in("{\"text\": \"a\"}\n{}\n"), out;
  try {
    tokenize_lines(tokenizer_, in, out, {});
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_EQ(std::string(e.what()).rfind("line 2: ", 0), 0u);
  }
  EXPECT_FALSE(out.str().empty());  // what came before is out
}

}  // namespace
}  // namespace limpet::client
