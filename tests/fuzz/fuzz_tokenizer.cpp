// A tokenizer.json, a zero byte, a text. What loads must encode to tokens that it has, decode to
// UTF-8, and stream the same text as it decodes at once.
#include <algorithm>
#include <stdexcept>

#include "engine/text_stream.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_bpe.h"
#include "engine/tokenizer_utf8.h"
#include "tests/fuzz/target.h"

namespace limpet::fuzz {
namespace {

using namespace engine;

constexpr size_t kMaxText = 512;  // a pattern of exponential time is slow, but bounded

void stream(const Tokenizer& tokenizer, const std::vector<Token>& ids) {
  TextStream stream(tokenizer, {});
  std::string text;
  for (const Token id : ids) text += stream.push(id).text;
  text += stream.finish().text;
  expect(text == tokenizer.decode(ids, true));
  const std::vector<std::string> stops{"ab", "b", "\xc3\xa9"};
  TextStream stopping(tokenizer, stops);
  std::string until;
  for (const Token id : ids) until += stopping.push(id).text;
  if (!stopping.stopped()) until += stopping.finish().text;
  expect(text.starts_with(until));
}

void use(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool with_special : {false, true}) {
    const TokenIds encoded = tokenizer.encode(text, with_special);
    expect(encoded.ok() || encoded.ids.empty());
    expect(std::ranges::all_of(encoded.ids, [&](Token id) { return tokenizer.has(id); }));
    expect(valid_utf8(tokenizer.decode(encoded.ids, false)));
    stream(tokenizer, encoded.ids);
  }
  std::vector<Token> any;  // tokens that no text would give in this order
  for (const char c : text) any.push_back(static_cast<unsigned char>(c) - 1);
  expect(valid_utf8(tokenizer.decode(any, false)));
  stream(tokenizer, any);
}

bool run(std::string_view input) {
  const size_t end = std::min(input.find('\0'), input.size());
  try {
    const auto tokenizer = Tokenizer::parse(input.substr(0, end));
    use(tokenizer, input.substr(std::min(end + 1, input.size())).substr(0, kMaxText));
    return true;
  } catch (const std::runtime_error&) {
    return false;  // with a reason
  }
}

// Byte level: every byte has its token, some are merged.
std::string byte_level(const std::string& more) {
  std::string vocab;
  for (int b = 0; b < 256; ++b) {
    std::string content;
    append_utf8(byte_level_character(static_cast<unsigned char>(b)), content);
    if (content == "\"" || content == "\\") content.insert(0, "\\");
    vocab += "\"" + content + "\":" + std::to_string(b) + ",";
  }
  return R"({"model":{"type":"BPE","vocab":{)" + vocab +
         R"("he":256,"ll":257,"hell":258,"Ġhe":259},"merges":["h e","l l",["he","ll"],"Ġ he"]})" +
         more + R"(,"decoder":{"type":"ByteLevel"}})";
}

std::vector<std::string> seeds() {
  const std::string text =
      std::string(1, '\0') + "hello hell  <|e|> don't 123 \u00e9 e\u0301\u4f60\n";
  return {
      byte_level(R"(,"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence",)"
                 R"("pretokenizers":[{"type":"Split","pattern":)"
                 R"({"Regex":"\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s"},)"
                 R"("behavior":"Isolated","invert":false},{"type":"ByteLevel",)"
                 R"("add_prefix_space":false,"use_regex":false}]},"added_tokens":[{"id":259,)"
                 R"("content":"<|e|>","special":true,"lstrip":true,"rstrip":true}],)"
                 R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":)"
                 R"({"id":"e"}},{"Sequence":{"id":"A"}}],"special_tokens":{"e":{"ids":[259]}}})") +
          text,
      byte_level(R"(,"pre_tokenizer":{"type":"ByteLevel"},"added_tokens":[{"id":301,)"
                 R"("content":"don","single_word":true,"normalized":true}],)"
                 R"("post_processor":{"type":"RobertaProcessing","cls":["h",5],"sep":["h",6]})") +
          text,
      R"({"model":{"type":"BPE","byte_fallback":true,"unk_token":"<u>","fuse_unk":true,"vocab":)"
      R"({"<u>":0,"▁":1,"h":2,"e":3,"l":4,"o":5,"he":6,"<0xC3>":7,"<0xA9>":8,"<0x0A>":9},)"
      R"("merges":["h e"]},"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend",)"
      R"("prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},)"
      R"("decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},)"
      R"("content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ",)"
      R"("start":1,"stop":0}]}})" +
          text,
      byte_level(R"(,"pre_tokenizer":{"type":"Sequence","pretokenizers":[)"
                 R"({"type":"WhitespaceSplit"},{"type":"Whitespace"},{"type":"Split","pattern":)"
                 R"({"Regex":"^\\b[\\w[:punct:]]{1,2}+|(?m:\\p{Han}.)|\\h{,2}$"},)"
                 R"("behavior":"MergedWithPrevious","invert":true},{"type":"ByteLevel"}]})") +
          text,
      R"({"model":{"type":"BPE","ignore_merges":true,"vocab":{"a":0,"b":1,"c":2,"ab":3,"▁":4},)"
      R"("merges":["a b"]},"normalizer":{"type":"NFKD"},"pre_tokenizer":{"type":"Sequence",)"
      R"("pretokenizers":[{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"},)"
      R"({"type":"Digits","individual_digits":true},{"type":"Punctuation","behavior":)"
      R"("MergedWithNext"}]},"decoder":{"type":"Metaspace","replacement":"▁"}})" +
          text,
  };
}

}  // namespace

const Target kTokenizer{run, seeds};

}  // namespace limpet::fuzz
