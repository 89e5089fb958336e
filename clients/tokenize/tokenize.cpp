#include "clients/tokenize/tokenize.h"

#include <istream>
#include <limits>
#include <nlohmann/json.hpp>
#include <ostream>
#include <stdexcept>
#include <vector>

namespace limpet::client {
namespace {

using Json = nlohmann::json;

std::string decoded(const engine::Tokenizer& tokenizer, const Json& line) {
  const auto ids = line.find("ids");
  if (ids == line.end() || !ids->is_array()) {
    throw std::runtime_error(R"(expected {"ids": [1, 2, 3]})");
  }
  std::vector<Token> tokens;
  tokens.reserve(ids->size());
  for (const Json& id : *ids) {
    const bool whole = id.is_number_integer() && id <= std::numeric_limits<Token>::max();
    const Token token = whole && id >= 0 ? id.get<Token>() : -1;
    if (!tokenizer.has(token)) throw std::runtime_error("no such token: " + id.dump());
    tokens.push_back(token);
  }
  return Json{{"text", tokenizer.decode(tokens, false)}}.dump();
}

std::string encoded(const engine::Tokenizer& tokenizer, const Json& line, bool with_special) {
  const auto text = line.find("text");
  if (text == line.end() || !text->is_string()) {
    throw std::runtime_error(R"(expected {"text": "..."})");
  }
  engine::TokenIds ids = tokenizer.encode(text->get_ref<const std::string&>(), with_special);
  if (!ids.ok()) throw std::runtime_error(ids.error);
  return Json{{"ids", std::move(ids.ids)}}.dump();
}

}  // namespace

std::string tokenize_line(const engine::Tokenizer& tokenizer, std::string_view line,
                          const TokenizeOptions& options) {
  Json json;
  try {
    json = Json::parse(line);
  } catch (const Json::parse_error& e) {
    throw std::runtime_error(std::string("not JSON: ") + e.what());
  }
  if (!json.is_object()) throw std::runtime_error("not a JSON object");
  return options.decode ? decoded(tokenizer, json) : encoded(tokenizer, json, options.with_special);
}

void tokenize_lines(const engine::Tokenizer& tokenizer, std::istream& in, std::ostream& out,
                    const TokenizeOptions& options) {
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      out << tokenize_line(tokenizer, line, options) << '\n';
    } catch (const std::runtime_error& e) {
      out.flush();
      throw std::runtime_error("line " + std::to_string(number) + ": " + e.what());
    }
    if (in.rdbuf()->in_avail() <= 0) out.flush();  // nothing more to do yet: someone may wait
  }
  if (!out.flush()) throw std::runtime_error("cannot write the output");
}

}  // namespace limpet::client
