// What a loaded tokenizer consists of; tokenizer_load.cpp builds it, tokenizer.cpp runs it.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "engine/tokenizer_added.h"
#include "engine/tokenizer_bpe.h"
#include "engine/tokenizer_normalize.h"
#include "engine/tokenizer_split.h"

namespace limpet::engine {

struct TokenizerModel {
  struct Piece {
    std::string bytes;  // what it adds to decoded text
    bool present = false, special = false, byte = false;
  };
  std::vector<Piece> pieces;  // by id
  size_t contents_size = 0;   // bytes of all pieces
  Vocabulary vocabulary;      // by content, added tokens included
  std::optional<Bpe> bpe;

  AddedTokens added_in_raw, added_in_normalized;
  std::vector<Normalizer> normalizers;
  std::vector<Splitter> splitters;
  std::vector<Token> prefix, suffix;  // what the post-processor puts around
  DecoderTraits decoder;
};

// From the content of a tokenizer.json. Throws std::exception that says what is wrong with it.
std::unique_ptr<TokenizerModel> parse_tokenizer_model(std::string_view text);
// Throws std::runtime_error that names the file and what is wrong with it.
std::unique_ptr<TokenizerModel> load_tokenizer_model(const std::filesystem::path& path);

}  // namespace limpet::engine
