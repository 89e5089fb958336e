// A chat template's source, a zero byte, a JSON object of variables, whose "messages" are rendered.
// Rendering ends, is UTF-8 when all that went in is, and gives either a text or an error.
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/chat_template.h"
#include "engine/tokenizer_utf8.h"
#include "tests/fuzz/target.h"

namespace limpet::fuzz {
namespace {

using namespace engine;
using Json = nlohmann::json;

std::vector<TemplateMessage> messages_of(std::string_view text) {
  std::vector<TemplateMessage> messages;
  const Json json = Json::parse(text, nullptr, false);
  const auto text_of = [](const Json& m, const char* name) {
    const auto found = m.find(name);
    return found != m.end() && found->is_string() ? found->get<std::string>() : std::string(name);
  };
  if (!json.is_object() || !json.contains("messages")) return {{"user", "Hi"}};
  for (const Json& m : json["messages"]) {
    if (m.is_object()) messages.push_back({text_of(m, "role"), text_of(m, "content")});
  }
  return messages;
}

bool run(std::string_view input) {
  const size_t end = std::min(input.find('\0'), input.size());
  const std::string_view source = input.substr(0, end);
  const std::string_view variables = input.substr(std::min(end + 1, input.size()));
  const auto messages = messages_of(variables);
  bool rendered = false;
  try {
    const auto chat_template = ChatTemplate::parse(source, {{"bos_token", "<s>"}});
    const RenderOptions options{true, 1753795800, std::string(variables)};
    for (const Rendered& r :
         {chat_template.render(messages, options), chat_template.render_delta(messages, options)}) {
      expect(r.ok() || r.text.empty());
      rendered = rendered || r.ok();
      expect(!valid_utf8(source) || valid_utf8(r.text));
    }
  } catch (const std::runtime_error&) {
    return false;  // a syntax error, told
  }
  return rendered;
}

std::vector<std::string> seeds() {
  const Json golden = Json::parse(read_file("tests/golden/chat_templates/cases.json"));
  Json variables = golden["variables"];
  variables["messages"] = golden["messages"];
  const std::string rest = std::string(1, '\0') + variables.dump();
  std::vector<std::string> out;
  for (const Json& c : golden["cases"]) out.push_back(c["source"].get<std::string>() + rest);
  return out;
}

}  // namespace

const Target kChatTemplate{run, seeds};

}  // namespace limpet::fuzz
