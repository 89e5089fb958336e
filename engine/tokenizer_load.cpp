// tokenizer.json to a Tokenizer::Model. The format is that of Hugging Face's tokenizers library.
#include <algorithm>
#include <fstream>
#include <stdexcept>

#include "engine/tokenizer.h"
#include "engine/tokenizer_json.h"
#include "engine/tokenizer_model.h"
#include "engine/tokenizer_utf8.h"

namespace limpet::engine {
namespace {

// What a file may ask for. The largest in use have 33 MB, 270 thousand tokens, ten steps.
constexpr uintmax_t kMaxFile = 128u << 20;  // bytes
constexpr size_t kIdSlack = 1 << 16;            // ids that no entry has
constexpr int kMaxNesting = 8;                  // of sequences in sequences
constexpr size_t kMaxSteps = 64;                // of normalizing, splitting, decoding
constexpr size_t kMaxAround = 256;              // tokens that the post-processor adds
constexpr size_t kMaxContent = 4096;            // bytes of a token
constexpr size_t kMaxContents = kMaxFile;       // bytes of all tokens, as they are decoded
constexpr size_t kMaxAddedContents = 8u << 20;  // bytes of all added tokens

// ---- Normalizer and pre-tokenizer --------------------------------------------------------------

Pattern pattern_of(const Json& object) {
  const Json& pattern = field(object, "pattern");
  const bool literal = pattern.is_object() && pattern.contains("String");
  return Pattern(text_of(pattern, literal ? "String" : "Regex"), literal);
}

void read_normalizer(const Json& json, int nesting, std::vector<Normalizer>& steps) {
  if (nesting > kMaxNesting) refuse("normalizers are nested too deeply");
  const std::string type = text_of(json, "type");
  if (type == "Sequence") {
    for (const Json& part : field(json, "normalizers")) read_normalizer(part, nesting + 1, steps);
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    steps.emplace_back(UnicodeForm{type.back() == 'C', type.size() == 4});
  } else if (type == "Prepend") {
    steps.emplace_back(PrependText{text_of(json, "prepend")});
  } else if (type == "Replace") {
    steps.emplace_back(ReplaceText{pattern_of(json), text_of(json, "content")});
  } else {
    refuse("the normalizer \"" + type + "\" is not supported");
  }
  if (steps.size() > kMaxSteps) refuse("there are too many normalizers");
}

SplitBehavior behavior_of(const Json& json) {
  const std::string name = text_of(json, "behavior");
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  refuse("the split behavior \"" + name + "\" is not supported");
}

std::string metaspace_replacement(const Json& json) {
  std::string replacement = text_of(json, "replacement");
  if (utf8_length(replacement) != 1) refuse("the \"replacement\" of Metaspace is one character");
  return replacement;
}

Metaspace::Prepend metaspace_prepend(const Json& json) {
  if (const Json* scheme = optional_field(json, "prepend_scheme")) {
    if (*scheme == "first") return Metaspace::Prepend::first;
    if (*scheme == "never") return Metaspace::Prepend::never;
    return Metaspace::Prepend::always;
  }
  return flag_of(json, "add_prefix_space", true) ? Metaspace::Prepend::always
                                                 : Metaspace::Prepend::never;
}

// ASCII's punctuation, and Unicode's of version 8.0: what came later is none to the reference's
// pre-tokenizer of this name (its patterns know more).
constexpr const char* kPunctuation =
    R"((?![)"
    R"(\x{61d}\x{9fd}\x{a76}\x{c77}\x{c84}\x{1b4e}-\x{1b4f}\x{1b7d}-\x{1b7f})"
    R"(\x{2e43}-\x{2e4f}\x{2e52}-\x{2e5d}\x{10d6e}\x{10ead}\x{10f55}-\x{10f59})"
    R"(\x{10f86}-\x{10f89}\x{113d4}-\x{113d5}\x{113d7}-\x{113d8}\x{1144b}-\x{1144f})"
    R"(\x{1145a}-\x{1145b}\x{1145d}\x{11660}-\x{1166c}\x{116b9}\x{1183b}\x{11944}-\x{11946})"
    R"(\x{119e2}\x{11a3f}-\x{11a46}\x{11a9a}-\x{11a9c}\x{11a9e}-\x{11aa2})"
    R"(\x{11b00}-\x{11b09}\x{11be1}\x{11c41}-\x{11c45}\x{11c70}-\x{11c71})"
    R"(\x{11ef7}-\x{11ef8}\x{11f43}-\x{11f4f}\x{11fff}\x{12ff1}-\x{12ff2})"
    R"(\x{16d6d}-\x{16d6f}\x{16e97}-\x{16e9a}\x{16fe2}\x{1e5ff}\x{1e95e}-\x{1e95f})"
    R"(])[!-/:-@\[-`{-~\p{P}\x{166d}\x{111c9}])";

// Runs of what Unicode calls word characters (UTS 18, annex C), runs of the others, no white space.
constexpr const char* kWords =
    R"([\w\x{200c}\x{200d}]+|[^\w\x{200c}\x{200d}\s]+)";

void read_splitter(const Json& json, int nesting, std::vector<Splitter>& steps, bool& byte_level) {
  // GPT-2's own split (Radford et al. 2019), which the byte-level step does when asked to.
  static constexpr const char* kGpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  if (nesting > kMaxNesting) refuse("pre-tokenizers are nested too deeply");
  const std::string type = text_of(json, "type");
  const auto isolated = [&](const char* source) {
    steps.emplace_back(SplitByPattern{Pattern(source, false), SplitBehavior::isolated, false});
  };
  if (type == "Sequence") {
    for (const Json& part : field(json, "pretokenizers")) {
      read_splitter(part, nesting + 1, steps, byte_level);
    }
  } else if (type == "Split") {
    steps.emplace_back(
        SplitByPattern{pattern_of(json), behavior_of(json), flag_of(json, "invert", false)});
  } else if (type == "ByteLevel") {
    if (flag_of(json, "add_prefix_space", true)) steps.emplace_back(SpacePrefix{});
    if (flag_of(json, "use_regex", true)) isolated(kGpt2);
    byte_level = true;
  } else if (type == "Digits") {
    // Those of Unicode 17 are digits to this pre-tokenizer, but not to patterns.
    isolated(flag_of(json, "individual_digits", false)
                 ? R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])"
                 : R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}]+)");
  } else if (type == "Punctuation") {
    const auto behavior = json.contains("behavior") ? behavior_of(json) : SplitBehavior::isolated;
    steps.emplace_back(SplitByPattern{Pattern(kPunctuation, false), behavior, false});
  } else if (type == "WhitespaceSplit") {
    steps.emplace_back(SplitByPattern{Pattern(R"(\s+)", false), SplitBehavior::removed, false});
  } else if (type == "Whitespace") {
    steps.emplace_back(SplitByPattern{Pattern(kWords, false), SplitBehavior::removed, true});
  } else if (type == "Metaspace") {
    steps.emplace_back(Metaspace{metaspace_replacement(json), metaspace_prepend(json),
                                 flag_of(json, "split", true)});
  } else {
    refuse("the pre-tokenizer \"" + type + "\" is not supported");
  }
  if (steps.size() > kMaxSteps) refuse("there are too many pre-tokenizers");
}

// ---- Post-processor ----------------------------------------------------------------------------

struct Around {
  std::vector<Token> prefix, suffix;
};

Around read_template(const Json& json) {
  Around around;
  bool after_text = false;
  for (const Json& part : field(json, "single")) {
    if (optional_field(part, "Sequence") != nullptr) {
      after_text = true;
      continue;
    }
    const std::string name = text_of(field(part, "SpecialToken"), "id");
    for (const Json& id : field(field(field(json, "special_tokens"), name.c_str()), "ids")) {
      std::vector<Token>& ids = after_text ? around.suffix : around.prefix;
      ids.push_back(id_of(id, name.c_str()));
      if (ids.size() > kMaxAround) refuse("the post-processor adds too many tokens");
    }
  }
  return around;
}

Around read_pair(const Json& json) {  // BERT's way: ["</s>", 2]
  const auto id = [&](const char* name) {
    const Json& pair = field(json, name);
    if (!pair.is_array() || pair.size() != 2) refuse(std::string("\"") + name + "\" is no pair");
    return id_of(pair[1], name);
  };
  return {{id("cls")}, {id("sep")}};
}

void read_post_processor(const Json& json, int nesting, TokenizerModel& model) {
  if (nesting > kMaxNesting) refuse("post-processors are nested too deeply");
  const std::string type = text_of(json, "type");
  if (type == "Sequence") {
    for (const Json& part : field(json, "processors")) {
      read_post_processor(part, nesting + 1, model);
    }
    return;
  }
  Around around;
  if (type == "TemplateProcessing") {
    around = read_template(json);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    around = read_pair(json);
  } else if (type != "ByteLevel") {  // which only moves offsets
    refuse("the post-processor \"" + type + "\" is not supported");
  }
  model.prefix.insert(model.prefix.begin(), around.prefix.begin(), around.prefix.end());
  model.suffix.insert(model.suffix.end(), around.suffix.begin(), around.suffix.end());
  if (std::max(model.prefix.size(), model.suffix.size()) > kMaxAround) {
    refuse("the post-processor adds too many tokens");
  }
}

void check_around(const TokenizerModel& model, const std::vector<Token>& ids) {
  for (const Token id : ids) {
    const auto at = static_cast<size_t>(id);
    if (at >= model.pieces.size() || !model.pieces[at].present) {
      refuse("the post-processor adds the id " + std::to_string(id) +
             ", which no token of the vocabulary has");
    }
  }
}

// ---- Decoder -----------------------------------------------------------------------------------

struct DecoderSteps {
  DecoderTraits traits;
  std::vector<std::pair<std::string, std::string>> replacements;  // done on the tokens once
  bool fused = false;
};

void read_strip(const Json& json, DecoderSteps& steps) {
  const Json& start = field(json, "start");
  const Json& stop = field(json, "stop");
  if (!steps.fused || stop != 0 || !start.is_number_integer()) {
    refuse("the decoder \"Strip\" is supported after \"Fuse\", at the start of the text");
  }
  steps.traits.strip = text_of(json, "content");
  if (utf8_length(steps.traits.strip) != 1) refuse("the decoder \"Strip\" needs one character");
  steps.traits.strip_count = static_cast<int32_t>(std::clamp<int64_t>(start, 0, 1 << 20));
}

void read_decoder(const Json& json, int nesting, DecoderSteps& steps) {
  if (nesting > kMaxNesting) refuse("decoders are nested too deeply");
  const std::string type = text_of(json, "type");
  if (type == "Sequence") {
    for (const Json& part : field(json, "decoders")) read_decoder(part, nesting + 1, steps);
  } else if (type == "ByteLevel") {
    steps.traits.byte_level = true;
  } else if (type == "ByteFallback") {
    steps.traits.byte_runs = true;
  } else if (type == "Fuse") {
    steps.fused = true;
  } else if (type == "Strip") {
    read_strip(json, steps);
  } else if (type == "Replace" && !steps.fused) {
    steps.replacements.emplace_back(text_of(field(json, "pattern"), "String"),
                                    text_of(json, "content"));
  } else if (type == "Metaspace") {
    steps.replacements.emplace_back(metaspace_replacement(json), " ");
    if (metaspace_prepend(json) != Metaspace::Prepend::never) steps.traits.first_drops = " ";
  } else {
    refuse("the decoder \"" + type + "\" is not supported here");
  }
  if (steps.replacements.size() > kMaxSteps) refuse("there are too many decoders");
}

[[noreturn]] void refuse_content(const std::string& text) {
  refuse("a token has more than " + std::to_string(kMaxContent) + " bytes: \"" +
         replace_bad_utf8(text.substr(0, 40)) + "...\"");
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  if (what.empty()) return text;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size()) {
    if (with.size() > kMaxContent) refuse_content(with);
    text.replace(at, what.size(), with);
    if (text.size() > kMaxContent) refuse_content(text);
  }
  return text;
}

// "<0x0A>" to its byte.
bool fallback_byte(const std::string& content, char& byte) {
  if (content.size() != 6 || !content.starts_with("<0x") || content[5] != '>') return false;
  const std::string digits = content.substr(3, 2);
  if (digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) return false;
  byte = static_cast<char>(std::stoi(digits, nullptr, 16));
  return true;
}

// What a token is decoded to.
TokenizerModel::Piece piece_of(const std::string& content, bool special,
                               const DecoderSteps& steps) {
  TokenizerModel::Piece piece;
  piece.present = true;
  piece.special = special;
  char byte = 0;
  if (steps.traits.byte_level && byte_level_bytes(content, piece.bytes)) {
    // its bytes are set
  } else if (steps.traits.byte_runs && fallback_byte(content, byte)) {
    piece.bytes = std::string(1, byte);
    piece.byte = true;
  } else {
    piece.bytes = content;
    for (const auto& [what, with] : steps.replacements) {
      piece.bytes = replaced(std::move(piece.bytes), what, with);
    }
  }
  return piece;
}

void place_piece(Token id, TokenizerModel::Piece piece, TokenizerModel& model) {
  model.contents_size += piece.bytes.size();
  if (model.contents_size > kMaxContents) refuse("all tokens together are too long");
  model.pieces[static_cast<size_t>(id)] = std::move(piece);
}

// `entries`: how many tokens the file has, which bounds their ids.
void place(const std::string& content, Token id, bool special, const DecoderSteps& steps,
           size_t entries, TokenizerModel& model) {
  if (content.size() > kMaxContent) refuse_content(content);
  if (static_cast<size_t>(id) >= entries + kIdSlack) {
    refuse("the id " + std::to_string(id) + " of \"" + content +
           "\" is out of range: there are only " + std::to_string(entries) + " tokens");
  }
  if (static_cast<size_t>(id) >= model.pieces.size()) {
    model.pieces.resize(static_cast<size_t>(id) + 1);
  }
  place_piece(id, piece_of(content, special, steps), model);
  model.vocabulary.insert_or_assign(content, id);
}

// ---- Model -------------------------------------------------------------------------------------

std::pair<std::string, std::string> read_merge(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (merge.is_string()) {
    const auto text = merge.get<std::string>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  refuse("a merge must be a pair of tokens, not " + merge.dump(-1, ' ', true).substr(0, 80));
}

void refuse_affix(const Json& json, const char* name) {
  const Json* affix = optional_field(json, name);
  if (affix != nullptr && *affix != "") refuse(std::string("\"") + name + "\" is not supported");
}

Bpe read_bpe(const Json& json, bool byte_level, const Vocabulary& vocabulary) {
  Bpe::Options options;
  options.byte_level = byte_level;
  options.byte_fallback = flag_of(json, "byte_fallback", false);
  options.fuse_unknown = flag_of(json, "fuse_unk", false);
  options.ignore_merges = flag_of(json, "ignore_merges", false);
  const auto find = [&](const std::string& content) {
    const auto it = vocabulary.find(content);
    if (it == vocabulary.end()) refuse("\"" + content + "\" is not in the vocabulary");
    return it->second;
  };
  refuse_affix(json, "continuing_subword_prefix");
  refuse_affix(json, "end_of_word_suffix");
  if (optional_field(json, "unk_token") != nullptr) {
    options.unknown = find(text_of(json, "unk_token"));
  }
  std::vector<Bpe::Merge> merges;
  for (const Json& merge : field(json, "merges")) {
    const auto [left, right] = read_merge(merge);
    merges.push_back({find(left), find(right), find(left + right)});
  }
  return Bpe(options, vocabulary, merges);
}

// A token that the vocabulary has keeps its number, and others are counted on from its end,
// whatever number the file gives: so does the reference, whose numbers models are trained on.
void read_added_tokens(const Json& json, const DecoderSteps& steps, size_t entries,
                       TokenizerModel& model) {
  size_t size = 0;
  Token next = static_cast<Token>(model.vocabulary.size());
  for (const Json& token : json) {
    AddedToken added;
    added.id = id_of(field(token, "id"), "added_tokens");
    added.content = text_of(token, "content");
    added.special = flag_of(token, "special", false);
    added.normalized = flag_of(token, "normalized", !added.special);
    added.single_word = flag_of(token, "single_word", false);
    added.lstrip = flag_of(token, "lstrip", false);
    added.rstrip = flag_of(token, "rstrip", false);
    const auto known = model.vocabulary.find(added.content);
    added.id = known != model.vocabulary.end() ? known->second : next;
    next = std::max(next, added.id + 1);
    place(added.content, added.id, added.special, steps, entries, model);
    if ((size += added.content.size()) > kMaxAddedContents) {
      refuse("all added tokens together are too long");
    }
    if (added.normalized) {
      // A normalized token is looked for, and decoded to, what it reads after normalization.
      auto error = normalize(model.normalizers, added.content, kMaxContent);
      if (!error.empty()) refuse("the added token " + std::to_string(added.id) + ": " + error);
      place_piece(added.id, piece_of(added.content, added.special, steps), model);
      model.added_in_normalized.add(added);
    } else {
      model.added_in_raw.add(added);
    }
  }
}

void read_all(const Json& json, TokenizerModel& model) {
  if (const Json* part = optional_field(json, "normalizer")) {
    read_normalizer(*part, 0, model.normalizers);
  }
  bool byte_level = false;
  if (const Json* part = optional_field(json, "pre_tokenizer")) {
    read_splitter(*part, 0, model.splitters, byte_level);
  }
  if (const Json* part = optional_field(json, "post_processor")) {
    read_post_processor(*part, 0, model);
  }
  DecoderSteps steps;
  if (const Json* part = optional_field(json, "decoder")) {
    read_decoder(*part, 0, steps);
  } else {
    steps.traits.separator = " ";
  }
  const Json& bpe = field(json, "model");
  const Json* type = optional_field(bpe, "type");
  if (type != nullptr && *type != "BPE") {
    refuse("the model type " + type->dump() + " is not supported (\"BPE\" is)");
  }
  const Json& vocab = field(bpe, "vocab");
  if (!vocab.is_object() || vocab.empty()) refuse("\"vocab\" must be an object of token ids");
  const Json* added = optional_field(json, "added_tokens");
  const size_t entries = vocab.size() + (added == nullptr ? 0 : added->size());
  for (const auto& [content, id] : vocab.items()) {
    place(content, id_of(id, content.c_str()), false, steps, entries, model);
  }
  model.bpe.emplace(read_bpe(bpe, byte_level, model.vocabulary));
  if (added != nullptr) read_added_tokens(*added, steps, entries, model);
  check_around(model, model.prefix);
  check_around(model, model.suffix);
  model.decoder = steps.traits;
}

}  // namespace

std::unique_ptr<TokenizerModel> parse_tokenizer_model(std::string_view text) {
  auto model = std::make_unique<TokenizerModel>();
  check_depth(text);
  read_all(Json::parse(text), *model);
  return model;
}

std::unique_ptr<TokenizerModel> load_tokenizer_model(const std::filesystem::path& path) {
  std::error_code error;
  const bool folder = std::filesystem::is_directory(path, error);
  const std::filesystem::path file = folder ? path / "tokenizer.json" : path;
  const uintmax_t size = std::filesystem::file_size(file, error);
  if (error) {
    refuse("cannot read " + file.string() + ": " + error.message() +
           "; give a model folder that has a tokenizer.json");
  }
  if (size > kMaxFile) refuse(file.string() + " is too large to be a tokenizer");
  std::ifstream in(file, std::ios::binary);
  std::string text(static_cast<size_t>(size), '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(text.size()))) {
    refuse("cannot read " + file.string());
  }
  try {
    return parse_tokenizer_model(text);
  } catch (const std::exception& e) {  // nlohmann's own, too
    refuse("cannot use " + file.string() + ": " + e.what());
  }
}

}  // namespace limpet::engine
