// Chat messages to text, by the model's own template: the Jinja dialect of Hugging Face's
// tokenizer_config.json and chat_template.jinja.
//
// Immutable after load; const members may be called from any thread. Rendering reads no clock, no
// file, no environment; it is bounded in steps, nesting and bytes, whatever the template does.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tokenizer.h"

namespace limpet::engine {

struct TemplateMessage {
  std::string role;
  std::string content;
};

struct RenderOptions {
  bool add_generation_prompt = true;
  int64_t now = 0;         // seconds since 1970, UTC: what strftime_now tells
  std::string extra_json;  // more variables ("tools", "enable_thinking"): an object, or empty
};

struct Rendered {
  std::string text;
  std::string error;  // not empty: no text (also what the template raises by raise_exception)
  bool ok() const { return error.empty(); }
};

class ChatTemplate {
 public:
  ChatTemplate();  // none: rendering gives an error that says so
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // The model folder's template: chat_template.jinja, else tokenizer_config.json's chat_template
  // (a string, or a list, of which "default" is taken). A folder without one gives an empty
  // ChatTemplate. Throws std::runtime_error when there is one and it cannot be read.
  static ChatTemplate load(const std::filesystem::path& folder);

  // From source; `variables` are strings that the template sees, e.g. {"bos_token", "<s>"}.
  // Throws std::runtime_error with the line of a syntax error.
  static ChatTemplate parse(std::string_view source,
                            std::vector<std::pair<std::string, std::string>> variables = {});

  bool empty() const { return program_ == nullptr; }

  Rendered render(std::span<const TemplateMessage> messages, const RenderOptions& options) const;

  // The text to append to a session whose last message was the assistant's: what the template
  // puts after an assistant's content and then for `messages`. History is not needed.
  Rendered render_delta(std::span<const TemplateMessage> messages,
                        const RenderOptions& options) const;

 private:
  struct Program;
  std::unique_ptr<Program> program_;
};

// A job's prompt: the tokens that its messages add to a session. `transcript_tail` is the end of
// the session's tokens (the last few will do); empty for a new session, whose messages are
// rendered whole. An end token that both the transcript and the rendered text have appears once.
TokenIds prompt_tokens(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                       std::span<const Token> transcript_tail,
                       std::span<const TemplateMessage> messages, const RenderOptions& options);

}  // namespace limpet::engine
