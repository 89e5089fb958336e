// Text to token ids and back, as a model's tokenizer.json says (the byte-pair-encoding kinds:
// byte-level, and characters with byte fallback).
//
// Immutable after load; every const member may be called from any thread. Time is n log n at
// worst in the text's bytes. Input that is not UTF-8 is read with U+FFFD for each bad sequence.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/token.h"

namespace limpet::engine {

// Ids, or why there are none.
struct TokenIds {
  std::vector<Token> ids;
  std::string error;  // empty: fine
  bool ok() const { return error.empty(); }
};

// How decoded tokens become text; the last stages of tokenizer.json's decoder, in their order.
struct DecoderTraits {
  bool byte_level = false;  // bytes are concatenated; bad UTF-8 becomes U+FFFD at the end
  bool byte_runs = false;   // a run of byte tokens that is not UTF-8 becomes one U+FFFD a byte
  std::string separator;    // between tokens
  std::string strip;        // one character; up to strip_count of it go from the text's start
  int32_t strip_count = 0;
  std::string first_drops;  // a character that the first token loses
};

struct TokenizerModel;  // tokenizer_model.h

class Tokenizer {
 public:
  // Bytes of text in one call: as given, normalized, and pre-tokenized.
  static constexpr size_t kMaxText = 64u << 20;

  // A folder that holds tokenizer.json, or the file. Throws std::runtime_error that says what is
  // wrong with the file, and names what it asks for that is not supported.
  static Tokenizer load(const std::filesystem::path& path);

  // From the content of a tokenizer.json; throws likewise.
  static Tokenizer parse(std::string_view text);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Added tokens (the special ones too) are found in the text in any case; `with_special` says
  // whether the post-processor puts its own around (e.g. the beginning-of-text token).
  TokenIds encode(std::string_view text, bool with_special) const;

  // Valid UTF-8. Ids that are not in the vocabulary give nothing; special tokens too when they
  // are to be skipped.
  std::string decode(std::span<const Token> ids, bool skip_special) const;

  int32_t vocab_size() const;    // highest id + 1
  bool has(Token id) const;      // the vocabulary may have holes
  bool special(Token id) const;  // an added token that is marked special
  std::optional<Token> find(std::string_view content) const;  // e.g. "<|im_end|>"

  // What the token adds to decoded text, before bytes become characters; empty when `has` is not.
  std::string_view token_bytes(Token id) const;
  bool byte_token(Token id) const;  // stands for one byte, by fallback ("<0x0A>")
  const DecoderTraits& decoder() const;

 private:
  explicit Tokenizer(std::unique_ptr<TokenizerModel> model);
  std::unique_ptr<TokenizerModel> model_;
};

}  // namespace limpet::engine
