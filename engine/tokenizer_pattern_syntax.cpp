#include "engine/tokenizer_pattern_syntax.h"

#include <array>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "engine/unicode_additions.h"

namespace limpet::engine {
namespace {

constexpr size_t kNone = std::string::npos;

// Unicode's White_Space. PCRE2's \s also has U+180E, which lost it in Unicode 6.3.
constexpr std::string_view kSpaces = R"(\p{Z}\t-\r\x{85})";
// Alphabetic in Unicode 16 and of a category that has others too; the letters go by theirs.
constexpr std::string_view kAlphabeticMarks =
    R"(\x{363}-\x{36f}\x{897}\x{c04}\x{cf3}\x{f82}-\x{f83}\x{1dd3}-\x{1de6}\x{10d69}\x{10efc})"
    R"(\x{11080}-\x{11081}\x{11241}\x{113b8}-\x{113c0}\x{113c2}\x{113c5}\x{113c7}-\x{113ca})"
    R"(\x{113cc}-\x{113cd}\x{11f00}-\x{11f01}\x{11f03}\x{11f34}-\x{11f3a}\x{11f3e}-\x{11f40})"
    R"(\x{1611e}-\x{1612e}\x{1e08f})";
constexpr std::string_view kLowercaseModifiers =
    R"(\x{10fc}\x{a7f2}-\x{a7f4}\x{ab69}\x{1e030}-\x{1e06d})";

// What scripts have got since Unicode 14, of those that text in use is written in.
struct ScriptAddition {
  std::string_view script, items;
};
constexpr std::array kScriptAdditions = {
    ScriptAddition{"han", R"(\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})"},
    ScriptAddition{"hiragana", R"(\x{1b132})"},
    ScriptAddition{"katakana", R"(\x{1b155})"},
    ScriptAddition{"latin", R"(\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{1df25}-\x{1df2a})"},
    ScriptAddition{"cyrillic", R"(\x{1c89}-\x{1c8a}\x{1e030}-\x{1e06d}\x{1e08f})"},
    ScriptAddition{"arabic", R"(\x{897}\x{10ec2}-\x{10ec4}\x{10efc}-\x{10eff})"},
    ScriptAddition{"devanagari", R"(\x{11b00}-\x{11b09})"}};

[[noreturn]] void refuse(const std::string& source, const std::string& what) {
  throw std::runtime_error("the pattern \"" + source + "\" has " + what +
                           ", which is not supported");
}

std::string category(std::string_view name) {
  return unicode_additions(name) + "\\p{" + std::string(name) + "}";
}

// Those of a set that both sides know by this name and mean otherwise; as items of a class.
std::optional<std::string> named_set(std::string_view name) {
  const std::string letters = "\\p{Alphabetic}" + category("L") + category("Nl");
  const std::string alphabetic = letters + std::string(kAlphabeticMarks);
  if (name == "alpha" || name == "alphabetic") return alphabetic;
  if (name == "alnum") return alphabetic + category("Nd");
  if (name == "digit") return category("Nd");
  if (name == "word") return letters + category("M") + category("Nd") + category("Pc");
  if (name == "punct") return category("P") + category("S");
  if (name == "upper" || name == "uppercase") return "\\p{Uppercase}" + category("Lu");
  if (name == "lower" || name == "lowercase") {
    return "\\p{Lowercase}" + category("Ll") + std::string(kLowercaseModifiers);
  }
  if (name == "space" || name == "whitespace") return std::string(kSpaces);
  if (name == "blank") return "\\t\\p{Zs}";
  if (name == "xdigit") return "0-9A-Fa-f";
  return std::nullopt;
}

// As names are compared: without case, spaces, hyphens and underscores.
std::string plain(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == ' ' || c == '-' || c == '_') continue;
    out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return out;
}

class Translator {
 public:
  explicit Translator(const std::string& source) : source_(source) {}

  std::string run() {
    while (at_ < source_.size()) {
      if (source_[at_] == '\\' && at_ + 1 < source_.size()) {
        escape();
      } else if (in_class_) {
        in_class();
      } else {
        outside();
      }
    }
    return std::move(out_);
  }

 private:
  bool next_is(std::string_view text) const { return source_.compare(at_, text.size(), text) == 0; }

  void copy(size_t n = 1) {
    out_.append(source_, at_, n);
    at_ += n;
  }

  // A set of which `n` characters of the source speak.
  void put_set(size_t n, const std::string& items, bool negated) {
    if (negated && in_class_) refuse(source_, "\"" + source_.substr(at_, n) + "\" in a class");
    out_ += in_class_ ? items : (negated ? "[^" : "[") + items + "]";
    at_ += n;
  }

  void escape() {
    if (!in_class_) atom_ = out_.size();
    static const std::string word = *named_set("word"), digit = *named_set("digit");
    // Outside of classes these are word characters too.
    const std::string words = in_class_ ? word : word + "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
    switch (const char c = source_[at_ + 1]) {
      case 's': return put_set(2, std::string(kSpaces), false);
      case 'S': return in_class_ ? copy(2) : put_set(2, std::string(kSpaces), true);
      case 'w': case 'W': return put_set(2, words, c == 'W');
      case 'd': return put_set(2, digit, false);
      case 'D': return in_class_ ? copy(2) : put_set(2, digit, true);
      case 'h': case 'H': return put_set(2, *named_set("xdigit"), c == 'H');
      case 'p': case 'P': return property();
      case 'b': case 'B':
        if (in_class_) return copy(2);
        boundary("[" + words + "]", c == 'B');
        return;
      case 'v':  // a character, not a class of them
        out_ += "\\x0b";
        at_ += 2;
        return;
      case 'Q': case 'E': case 'V': refuse(source_, std::string("\"\\") + c + "\"");
      default: return copy(escape_length());
    }
  }

  // Of one that means the same to both; \x{85} is no interval.
  size_t escape_length() const {
    const size_t end = source_.find('}', at_);
    return source_.compare(at_ + 1, 2, "x{") == 0 && end != kNone ? end + 1 - at_ : 2;
  }

  void boundary(const std::string& word, bool negated) {
    out_ += negated ? "(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + "))"
                    : "(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + "))";
    at_ += 2;
  }

  // \p{L}, \P{L}, \p{^L}, and the same of a script or a set by name.
  void property() {
    const size_t end = source_.find('}', at_);
    if (at_ + 2 >= source_.size() || source_[at_ + 2] != '{' || end == kNone) return copy(2);
    bool negated = source_[at_ + 1] == 'P';
    std::string_view name = std::string_view(source_).substr(at_ + 3, end - at_ - 3);
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    const size_t length = end + 1 - at_;
    const std::string plain_name = plain(name);
    if (plain_name == "punct") return put_set(length, category("P"), negated);
    if (const auto set = named_set(plain_name)) return put_set(length, *set, negated);
    // PCRE2 takes a script's name for all that the script is used with, too.
    const bool script = plain_name.size() > 2 && plain_name != "any" &&
                        !plain_name.starts_with("emoji") && !plain_name.starts_with("extended");
    const std::string known = (script ? "sc:" : "") + std::string(name);
    std::string added = script ? "" : unicode_additions(name);
    for (const ScriptAddition& a : kScriptAdditions) {
      if (script && a.script == plain_name) added = a.items;
    }
    if (negated && in_class_) {
      out_ += "\\P{" + known + "}";
    } else if (added.empty()) {
      out_ += (negated ? "\\P{" : "\\p{") + known + "}";
    } else {
      return put_set(length, added + "\\p{" + known + "}", negated);
    }
    at_ += length;
  }

  void in_class() {
    if (next_is("[") || next_is("&&")) return posix_class();
    in_class_ = source_[at_] != ']';
    copy();
  }

  // PCRE2 would take a class in a class, or what && intersects, for characters that stand for
  // themselves, and split other text than is meant.
  void posix_class() {
    const size_t end = source_.find_first_not_of("^abcdefghijklmnopqrstuvwxyz", at_ + 2);
    if (!next_is("[:") || end == kNone || source_.compare(end, 2, ":]") != 0) {
      refuse(source_, "a class in a class or && in one");
    }
    std::string_view name = std::string_view(source_).substr(at_ + 2, end - at_ - 2);
    if (name == "ascii" || name == "cntrl") return copy(end + 2 - at_);
    const bool negated = name.starts_with('^');
    const auto set = named_set(negated ? name.substr(1) : name);
    if (!set) refuse(source_, "[:" + std::string(name) + ":]");
    put_set(end + 2 - at_, *set, negated);
  }

  void outside() {
    const char c = source_[at_];
    if (c == '(') groups_.push_back(out_.size());
    if (c == ')' && !groups_.empty()) {
      atom_ = groups_.back();
      groups_.pop_back();
    } else if ((c & 0xC0) != 0x80 && std::string_view("{*+?)").find(c) == kNone) {
      atom_ = out_.size();
    }
    if (c == '[') {
      in_class_ = true;
      copy();
      if (next_is("^")) copy();
      if (next_is("]")) copy();  // stands for itself
    } else if (next_is("(?")) {
      options();
    } else if (c == '{') {
      interval();
    } else {
      copy();
    }
  }

  // (?m) lets the dot match a line's end, as PCRE2's (?s).
  void options() {
    const size_t end = source_.find_first_not_of("imsx-", at_ + 2);
    copy(2);
    if (end == kNone || end == at_ || (source_[end] != ')' && source_[end] != ':')) return;
    for (; at_ < end; ++at_) {
      if (source_[at_] == 's') refuse(source_, "the option s");
      out_ += source_[at_] == 'm' ? 's' : source_[at_];
    }
  }

  // {,n} is {0,n}. After an interval, + repeats it again, and ? makes {n} optional; to PCRE2 they
  // would say how it matches.
  void interval() {
    const size_t end = source_.find_first_not_of("0123456789,", at_ + 1);
    if (end == kNone || source_[end] != '}' || end == at_ + 1) return copy();
    const std::string_view range = std::string_view(source_).substr(at_ + 1, end - at_ - 1);
    const char next = end + 1 < source_.size() ? source_[end + 1] : ' ';
    const bool again = next == '+' || (next == '?' && range.find(',') == kNone);
    if (again) out_.insert(atom_, "(?:");
    if (range.size() > 1 && range[0] == ',') {
      out_ += "{0";
      ++at_;
    }
    copy(end + 1 - at_);
    if (again) out_ += ')';
  }

  const std::string& source_;
  std::string out_;
  std::vector<size_t> groups_;  // where in it those that are open begin
  size_t at_ = 0, atom_ = 0;    // where in it what a quantifier would repeat begins
  bool in_class_ = false;
};

}  // namespace

std::string to_pcre2(const std::string& source) { return Translator(source).run(); }

}  // namespace limpet::engine
