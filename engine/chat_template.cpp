#include "engine/chat_template.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "engine/chat_template_eval.h"
#include "engine/chat_template_json.h"
#include "engine/chat_template_parser.h"

namespace limpet::engine {
namespace {

using Json = nlohmann::json;
using Variables = std::vector<std::pair<std::string, std::string>>;
namespace fs = std::filesystem;

constexpr uintmax_t kMaxConfig = 64u << 20;  // bytes of tokenizer_config.json
constexpr const char* kTokenNames[] = {"bos_token", "eos_token", "unk_token",
                                       "pad_token", "sep_token", "cls_token"};

std::optional<std::string> read_file(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  const uintmax_t size = fs::file_size(path, error);
  if (error) throw std::runtime_error("cannot read " + path.string() + ": " + error.message());
  if (size > kMaxConfig) throw std::runtime_error(path.string() + " is too large");
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (in.bad()) throw std::runtime_error("cannot read " + path.string());
  return text;
}

Json read_json(const fs::path& path) {
  const auto text = read_file(path);
  if (!text) return Json::object();
  try {
    Json json = Json::parse(*text);
    if (!json.is_object()) throw std::runtime_error("expected an object");
    return json;
  } catch (const std::exception& e) {
    throw std::runtime_error("cannot use " + path.string() + ": " + e.what());
  }
}

// A string, or the "default" of a list of named templates.
std::string template_of(const Json& config, const fs::path& path) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const Json& named : *found) {
      if (named.is_object() && named.value("name", Json()) == "default" &&
          named.value("template", Json()).is_string()) {
        return named["template"].get<std::string>();
      }
    }
  }
  throw std::runtime_error(path.string() +
                           ": chat_template is neither a string nor a list with a \"default\"");
}

// Special tokens are strings, or objects with their "content".
void add_tokens(const Json& config, Variables& variables) {
  for (const char* name : kTokenNames) {
    const bool known = std::any_of(variables.begin(), variables.end(),
                                   [name](const auto& v) { return v.first == name; });
    auto token = config.find(name);
    if (known || token == config.end()) continue;
    const Json& content = token->is_object() ? token->value("content", Json()) : *token;
    if (content.is_string()) variables.emplace_back(name, content.get<std::string>());
  }
}

jinja::Value value_of(std::span<const TemplateMessage> messages) {
  using jinja::Value;
  jinja::List items;
  for (const TemplateMessage& m : messages) {
    items.push_back(
        Value::dict({{"role", Value::text(m.role)}, {"content", Value::text(m.content)}}));
  }
  return Value::list(std::move(items));
}

// A text that occurs in none of the messages.
std::string mark_for(std::span<const TemplateMessage> messages) {
  for (int i = 0;; ++i) {
    std::string mark = "LimpetAnswer" + std::to_string(i) + "End";
    const bool used = std::any_of(messages.begin(), messages.end(), [&](const auto& m) {
      return m.role.find(mark) != std::string::npos || m.content.find(mark) != std::string::npos;
    });
    if (!used) return mark;
  }
}

// How many of the ids the transcript ends with already: an end token, and what follows it.
size_t overlap(const Tokenizer& tokenizer, std::span<const Token> tail,
               std::span<const Token> ids) {
  if (tail.empty() || ids.empty()) return 0;
  for (size_t n = std::min(tail.size(), ids.size()); tokenizer.special(ids[0]) && n > 0; --n) {
    const auto end = tail.last(n);
    if (std::equal(end.begin(), end.end(), ids.begin())) return n;
  }
  // Some templates put a space between an answer and its end token.
  size_t i = 0;
  while (i < ids.size() && !tokenizer.special(ids[i]) &&
         tokenizer.token_bytes(ids[i]).find_first_not_of(" \n") == std::string_view::npos) {
    ++i;
  }
  return i < ids.size() && tokenizer.special(ids[i]) && ids[i] == tail.back() ? i + 1 : 0;
}

}  // namespace

struct ChatTemplate::Program {
  jinja::Block block;
  Variables variables;
};

ChatTemplate::ChatTemplate() = default;
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

ChatTemplate ChatTemplate::load(const fs::path& folder) {
  const fs::path config_path = folder / "tokenizer_config.json";
  const Json config = read_json(config_path);
  Variables variables;
  add_tokens(config, variables);
  add_tokens(read_json(folder / "special_tokens_map.json"), variables);
  fs::path source_path = folder / "chat_template.jinja";
  std::optional<std::string> source = read_file(source_path);
  if (!source) {
    source_path = config_path;
    source = template_of(config, config_path);
  }
  if (source->empty()) return ChatTemplate();
  try {
    return parse(*source, std::move(variables));
  } catch (const std::runtime_error& e) {
    throw std::runtime_error("cannot use the chat template of " + source_path.string() + ": " +
                             e.what());
  }
}

ChatTemplate ChatTemplate::parse(std::string_view source, Variables variables) {
  ChatTemplate result;
  result.program_ = std::make_unique<Program>();
  result.program_->block = jinja::parse_template(source);
  result.program_->variables = std::move(variables);
  return result;
}

Rendered ChatTemplate::render(std::span<const TemplateMessage> messages,
                              const RenderOptions& options) const {
  if (empty()) {
    return {"", "the model has no chat template; send text or tokens instead of messages"};
  }
  try {
    jinja::Dict variables{{"tools", jinja::Value(jinja::None{})},
                          {"documents", jinja::Value(jinja::None{})}};
    for (const auto& [name, text] : program_->variables) {
      jinja::assign(variables, name, jinja::Value::text(text));
    }
    if (!options.extra_json.empty()) {
      for (auto& [name, value] : jinja::dict_from_json(options.extra_json)) {
        jinja::assign(variables, name, std::move(value));
      }
    }
    jinja::assign(variables, "messages", value_of(messages));
    jinja::assign(variables, "add_generation_prompt", jinja::Value(options.add_generation_prompt));
    jinja::Evaluator evaluator(std::move(variables), options.now);
    return {evaluator.run(program_->block), ""};
  } catch (const jinja::TemplateRefusal& e) {
    return {"", std::string("the chat template refuses these messages: ") + e.what()};
  } catch (const jinja::TemplateError& e) {
    return {"", std::string("the chat template failed: ") + e.what()};
  }
}

Rendered ChatTemplate::render_delta(std::span<const TemplateMessage> messages,
                                    const RenderOptions& options) const {
  const std::string mark = mark_for(messages);
  std::vector<TemplateMessage> all{{"user", "U"}, {"assistant", mark}};
  all.insert(all.end(), messages.begin(), messages.end());
  Rendered rendered = render(all, options);
  if (!rendered.ok()) return rendered;
  const size_t at = rendered.text.find(mark);
  if (at == std::string::npos || rendered.text.rfind(mark) != at) {
    return {"",
            "the model's chat template cannot continue a session: it does not show an "
            "assistant's answer just once; send text or tokens instead of messages"};
  }
  rendered.text.erase(0, at + mark.size());
  return rendered;
}

TokenIds prompt_tokens(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                       std::span<const Token> transcript_tail,
                       std::span<const TemplateMessage> messages, const RenderOptions& options) {
  if (messages.empty()) return {{}, "there are no messages"};
  const bool fresh = transcript_tail.empty();
  const Rendered rendered = fresh ? chat_template.render(messages, options)
                                  : chat_template.render_delta(messages, options);
  if (!rendered.ok()) return {{}, rendered.error};
  // The template writes the tokens that the post-processor would add.
  TokenIds out = tokenizer.encode(rendered.text, false);
  if (!out.ok()) return out;
  const size_t known = overlap(tokenizer, transcript_tail, out.ids);
  out.ids.erase(out.ids.begin(), out.ids.begin() + static_cast<std::ptrdiff_t>(known));
  if (out.ids.empty()) return {{}, "the messages give no tokens"};
  return out;
}

}  // namespace limpet::engine
