#include "engine/tokenizer.h"

#include <stdexcept>
#include <utility>

#include "engine/detokenizer.h"
#include "engine/tokenizer_model.h"
#include "engine/tokenizer_utf8.h"

namespace limpet::engine {

Tokenizer::Tokenizer(std::unique_ptr<TokenizerModel> model) : model_(std::move(model)) {}
Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  return Tokenizer(load_tokenizer_model(path));
}
Tokenizer Tokenizer::parse(std::string_view text) {
  try {
    return Tokenizer(parse_tokenizer_model(text));
  } catch (const std::exception& e) {
    throw std::runtime_error(std::string("cannot use this tokenizer: ") + e.what());
  }
}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

TokenIds Tokenizer::encode(std::string_view text, bool with_special) const {
  TokenIds out;
  if (text.size() > kMaxText) {
    out.error = "the text has " + std::to_string(text.size()) + " bytes; at most " +
                std::to_string(kMaxText) + " are tokenized at once";
    return out;
  }
  std::string repaired;
  if (!valid_utf8(text)) {
    repaired = replace_bad_utf8(text);
    text = repaired;
  }
  const TokenizerModel& m = *model_;
  if (with_special) out.ids = m.prefix;
  Bpe::Scratch scratch;
  Pieces pieces;
  size_t normal_room = kMaxText, pieces_room = kMaxText;  // left for what is still to come
  for (const auto& raw : m.added_in_raw.split(text)) {
    if (raw.id >= 0) {
      out.ids.push_back(raw.id);
      continue;
    }
    std::string normal(raw.text);
    out.error = normalize(m.normalizers, normal, normal_room);
    if (!out.error.empty()) return TokenIds{{}, out.error};
    normal_room -= normal.size();
    for (const auto& segment : m.added_in_normalized.split(normal)) {
      if (segment.id >= 0) {
        out.ids.push_back(segment.id);
        continue;
      }
      pieces.text = segment.text;
      pieces.ranges = {{0, segment.text.size()}};
      pieces.at_start = raw.text.data() == text.data() && segment.text.data() == normal.data();
      out.error = split(m.splitters, pieces, pieces_room);
      if (!out.error.empty()) return TokenIds{{}, out.error};
      pieces_room -= pieces.text.size();
      for (const auto& r : pieces.ranges) {
        m.bpe->encode(std::string_view(pieces.text).substr(r.begin, r.end - r.begin), scratch,
                      out.ids);
      }
    }
  }
  if (with_special) out.ids.insert(out.ids.end(), m.suffix.begin(), m.suffix.end());
  return out;
}

std::string Tokenizer::decode(std::span<const Token> ids, bool skip_special) const {
  Detokenizer detokenizer(*this, skip_special);
  std::string text;
  for (Token id : ids) detokenizer.push(id, text);
  detokenizer.finish(text);
  return text;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(model_->pieces.size()); }

bool Tokenizer::has(Token id) const {
  return id >= 0 && id < vocab_size() && model_->pieces[static_cast<size_t>(id)].present;
}

bool Tokenizer::special(Token id) const {
  return has(id) && model_->pieces[static_cast<size_t>(id)].special;
}

std::optional<Token> Tokenizer::find(std::string_view content) const {
  const auto it = model_->vocabulary.find(content);
  return it == model_->vocabulary.end() ? std::nullopt : std::optional(it->second);
}

std::string_view Tokenizer::token_bytes(Token id) const {
  return has(id) ? std::string_view(model_->pieces[static_cast<size_t>(id)].bytes)
                 : std::string_view();
}

bool Tokenizer::byte_token(Token id) const {
  return has(id) && model_->pieces[static_cast<size_t>(id)].byte;
}

const DecoderTraits& Tokenizer::decoder() const { return model_->decoder; }

}  // namespace limpet::engine
