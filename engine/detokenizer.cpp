#include "engine/detokenizer.h"

#include "engine/tokenizer_utf8.h"

namespace limpet::engine {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer),
      skip_special_(skip_special),
      strip_left_(tokenizer.decoder().strip_count) {}

void Detokenizer::push(Token id, std::string& text) {
  if (!tokenizer_->has(id) || (skip_special_ && tokenizer_->special(id))) return;
  const DecoderTraits& traits = tokenizer_->decoder();
  const bool first = first_;
  first_ = false;
  const std::string_view bytes = tokenizer_->token_bytes(id);
  if (traits.byte_runs && tokenizer_->byte_token(id)) {
    pending_ += bytes;
    return;
  }
  if (traits.byte_level) {
    pending_ += bytes;
    append_whole_characters(text, false);
    return;
  }
  close_byte_run(text);
  if (!first) append_text(traits.separator, text);
  if (!first || traits.first_drops.empty()) {
    append_text(bytes, text);
    return;
  }
  for (size_t i = 0; i < bytes.size();) {
    if (bytes.substr(i).starts_with(traits.first_drops)) {
      i += traits.first_drops.size();
    } else {
      const size_t length = utf8_step(bytes.substr(i)).length;
      append_text(bytes.substr(i, length), text);
      i += length;
    }
  }
}

void Detokenizer::finish(std::string& text) {
  if (tokenizer_->decoder().byte_level) {
    append_whole_characters(text, true);
  } else {
    close_byte_run(text);
  }
}

void Detokenizer::close_byte_run(std::string& text) {
  if (pending_.empty()) return;
  if (valid_utf8(pending_)) {
    append_text(pending_, text);
  } else {
    for (size_t i = 0; i < pending_.size(); ++i) append_text(kReplacementCharacter, text);
  }
  pending_.clear();
}

void Detokenizer::append_whole_characters(std::string& text, bool at_end) {
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.incomplete && !at_end) break;
    append_text(step.valid ? rest.substr(0, step.length) : kReplacementCharacter, text);
    rest.remove_prefix(step.length);
  }
  pending_.erase(0, pending_.size() - rest.size());
}

void Detokenizer::append_text(std::string_view characters, std::string& text) {
  const std::string& strip = tokenizer_->decoder().strip;
  while (strip_left_ > 0 && !characters.empty()) {
    if (characters.starts_with(strip)) {
      characters.remove_prefix(strip.size());
      --strip_left_;
    } else {
      strip_left_ = 0;
    }
  }
  text += characters;
}

}  // namespace limpet::engine
