// Methods of texts and dictionaries, and what filters share with them.
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "engine/chat_template_operations.h"
#include "engine/tokenizer_utf8.h"

namespace limpet::engine::jinja {
namespace {

constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

bool is_space(char32_t c) {  // Python's str.isspace
  if ((c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0) return true;
  return c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool is_letter(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

char32_t upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t lower(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

// Each character through `change(character, the one before)`; bad bytes pass as they are.
template <typename Change>
std::string mapped(Budget& budget, std::string_view text, const Change& change) {
  budget.scan(text.size());
  budget.make(2 * text.size());
  std::string out;
  char32_t before = ' ';
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (step.valid) {
      append_utf8(change(step.character, before), out);
    } else {
      out += text.substr(0, step.length);
    }
    before = step.character;
    text.remove_prefix(step.length);
  }
  return out;
}

Value texts(std::vector<std::string> parts) {
  List items;
  for (std::string& part : parts) items.push_back(Value::text(std::move(part)));
  return Value::list(std::move(items));
}

std::vector<std::string> split_at_spaces(std::string_view text, int64_t most) {
  std::vector<std::string> parts;
  size_t at = 0;
  const auto skip = [&](bool spaces) {
    while (at < text.size()) {
      const Utf8Step step = utf8_step(text.substr(at));
      if (is_space(step.character) != spaces) break;
      at += step.length;
    }
  };
  for (skip(true); at < text.size(); skip(true)) {
    const size_t begin = at;
    if (static_cast<int64_t>(parts.size()) == most) {
      parts.emplace_back(text.substr(begin));
      break;
    }
    skip(false);
    parts.emplace_back(text.substr(begin, at - begin));
  }
  return parts;
}

std::vector<std::string> split_at(std::string_view text, const std::string& separator, int64_t most,
                                  bool from_right) {
  if (separator.empty()) throw TemplateError("split needs a separator that is not empty");
  std::vector<std::string> parts;
  while (static_cast<int64_t>(parts.size()) < most) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    if (from_right) {
      parts.emplace_back(text.substr(at + separator.size()));
      text = text.substr(0, at);
    } else {
      parts.emplace_back(text.substr(0, at));
      text.remove_prefix(at + separator.size());
    }
  }
  parts.emplace_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

Value split_method(Budget& budget, const std::string& text, const CallArguments& a, bool right) {
  budget.scan(text.size());
  const int64_t given = a.integer(1, "maxsplit", -1);
  const int64_t most = given < 0 ? kAll : given;
  const Value* separator = a.get(0, "sep");
  std::vector<std::string> parts;
  if (separator == nullptr || separator->is_none()) {
    if (right && most != kAll) throw TemplateError("rsplit needs a separator");
    parts = split_at_spaces(text, most);
  } else {
    parts = split_at(text, a.text(0, "sep", ""), most, right);
  }
  budget.make(text.size() + parts.size() * (sizeof(Value) + sizeof(std::string)));
  return texts(std::move(parts));
}

// startswith and endswith take a text or a tuple of them.
bool has_affix(const std::string& text, const Value* affix, bool start) {
  const auto matches = [&](const Value& value) {
    const std::string* s = value.as_text();
    if (s == nullptr) throw TemplateError("startswith and endswith need a string");
    return start ? text.starts_with(*s) : text.ends_with(*s);
  };
  if (affix == nullptr) throw TemplateError("startswith and endswith need a string");
  if (const List* list = affix->as_list()) return std::any_of(list->begin(), list->end(), matches);
  return matches(*affix);
}

Value found_at(Budget& budget, const std::string& text, const CallArguments& a, bool right) {
  budget.scan(text.size());
  const std::string what = a.text(0, "sub", "");
  const size_t at = right ? text.rfind(what) : text.find(what);
  if (at == std::string::npos) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(utf8_length(std::string_view(text).substr(0, at))));
}

int64_t occurrences(const std::string& text, const std::string& what) {
  if (what.empty()) return static_cast<int64_t>(utf8_length(text)) + 1;
  int64_t count = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++count;
  return count;
}

bool all_are(std::string_view text, bool (*is)(char32_t)) {
  if (text.empty()) return false;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (!is(step.character)) return false;
    text.remove_prefix(step.length);
  }
  return true;
}

constexpr std::array<std::string_view, 26> kTextMethods = {
    "strip",    "lstrip",  "rstrip",  "split",   "rsplit",       "splitlines",   "startswith",
    "endswith", "replace", "upper",   "lower",   "title",        "capitalize",   "find",
    "rfind",    "count",   "join",    "isdigit", "removeprefix", "removesuffix", "isalpha",
    "isspace",  "isupper", "islower", "isalnum", "isnumeric"};

Value ask_text(const std::string& text, std::string_view name) {
  const auto digit = [](char32_t c) {
    return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND;
  };
  const auto alphanumeric = [](char32_t c) {
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
    return is_letter(c) || (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
  };
  if (name == "isdigit" || name == "isnumeric") return Value(all_are(text, digit));
  if (name == "isalpha") return Value(all_are(text, is_letter));
  if (name == "isspace") return Value(all_are(text, is_space));
  if (name == "isalnum") return Value(all_are(text, alphanumeric));
  bool cased = false, same = true;  // isupper, islower: some letter has case, none the other
  const bool want_upper = name == "isupper";
  for (std::string_view rest = text; !rest.empty();) {
    const Utf8Step step = utf8_step(rest);
    const bool is_upper = lower(step.character) != step.character;
    const bool is_lower = upper(step.character) != step.character;
    cased |= is_upper || is_lower;
    same &= want_upper ? !is_lower : !is_upper;
    rest.remove_prefix(step.length);
  }
  return Value(cased && same);
}

Value call_text(Budget& budget, const std::string& text, std::string_view name,
                const CallArguments& a) {
  budget.scan(text.size());
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const bool left = name != "rstrip", right = name != "lstrip";
    return Value::text(strip_text(budget, text, a.get(0, "chars"), left, right));
  }
  if (name == "split" || name == "rsplit") return split_method(budget, text, a, name == "rsplit");
  if (name == "splitlines") return texts(split_lines(budget, text));
  if (name == "startswith") return Value(has_affix(text, a.get(0, "prefix"), true));
  if (name == "endswith") return Value(has_affix(text, a.get(0, "suffix"), false));
  if (name == "replace") {
    const int64_t count = a.integer(2, "count", -1);
    return Value::text(replace_text(budget, text, a.text(0, "old", ""), a.text(1, "new", ""),
                                    count < 0 ? kAll : count));
  }
  if (name == "upper") return Value::text(upper_text(budget, text));
  if (name == "lower") return Value::text(lower_text(budget, text));
  if (name == "title") return Value::text(title_text(budget, text));
  if (name == "capitalize") return Value::text(capitalize_text(budget, text));
  if (name == "find" || name == "rfind") return found_at(budget, text, a, name == "rfind");
  if (name == "count") return Value(occurrences(text, a.text(0, "sub", "")));
  if (name == "join") {
    const Value* items = a.get(0, "iterable");
    return Value::text(items == nullptr ? "" : join_items(budget, items_of(budget, *items), text));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string affix = a.text(0, "affix", "");
    budget.make(text.size());
    if (name == "removeprefix") {
      return Value::text(text.starts_with(affix) ? text.substr(affix.size()) : text);
    }
    return Value::text(text.ends_with(affix) ? text.substr(0, text.size() - affix.size()) : text);
  }
  return ask_text(text, name);
}

Value call_dict(Budget& budget, const Dict& dict, std::string_view name, const CallArguments& a) {
  budget.make(dict.size() * 2 * sizeof(Value));
  if (name == "items") return key_value_pairs(budget, dict);
  if (name == "get") {
    const Value* value = find(dict, a.text(0, "key", ""));
    const Value* otherwise = a.get(1, "default");
    return value != nullptr ? *value : otherwise != nullptr ? *otherwise : Value(None{});
  }
  List items;
  for (const auto& [key, value] : dict) items.push_back(name == "keys" ? Value::text(key) : value);
  return Value::list(std::move(items));
}

}  // namespace

bool has_method(const Value& object, std::string_view name) {
  if (object.as_dict() != nullptr) {
    return name == "items" || name == "get" || name == "keys" || name == "values";
  }
  return object.as_text() != nullptr &&
         std::find(kTextMethods.begin(), kTextMethods.end(), name) != kTextMethods.end();
}

Value call_method(Budget& budget, const Value& object, std::string_view name,
                  const CallArguments& arguments) {
  if (const Dict* dict = object.as_dict()) return call_dict(budget, *dict, name, arguments);
  return call_text(budget, *object.as_text(), name, arguments);
}

std::string strip_text(Budget& budget, const std::string& text, const Value* characters, bool left,
                       bool right) {
  const std::string* set = characters == nullptr ? nullptr : characters->as_text();
  if (characters != nullptr && set == nullptr && !characters->is_none()) {
    throw TemplateError("strip needs a string of characters");
  }
  const auto stripped = [&](std::string_view character) {
    if (set == nullptr) return is_space(utf8_step(character).character);
    return set->find(character) != std::string::npos;
  };
  std::string_view rest = text;
  while (left && !rest.empty()) {
    const size_t length = utf8_step(rest).length;
    if (!stripped(rest.substr(0, length))) break;
    rest.remove_prefix(length);
  }
  while (right && !rest.empty()) {
    size_t length = 1;
    const size_t longest = std::min<size_t>(rest.size(), 4);
    while (length < longest && (rest[rest.size() - length] & 0xC0) == 0x80) ++length;
    if (!stripped(rest.substr(rest.size() - length))) break;
    rest.remove_suffix(length);
  }
  budget.make(rest.size());
  return std::string(rest);
}

std::string replace_text(Budget& budget, const std::string& text, const std::string& what,
                         const std::string& with, int64_t count) {
  budget.scan(text.size());
  std::string out;
  size_t from = 0;
  for (size_t at = 0; count > 0 && at <= text.size(); --count) {
    const size_t next = text.find(what, at);
    if (next == std::string::npos) break;
    budget.make(with.size() + next - from);
    out.append(text, from, next - from).append(with);
    from = next + what.size();
    // An empty text is found before each character, and at the end.
    const bool more = next < text.size();
    at = !what.empty() ? from
         : more        ? next + utf8_step(std::string_view(text).substr(next)).length
                       : text.size() + 1;
  }
  budget.make(text.size() - from);
  return out.append(text, from);
}

std::string upper_text(Budget& budget, std::string_view text) {
  return mapped(budget, text, [](char32_t c, char32_t) { return upper(c); });
}
std::string lower_text(Budget& budget, std::string_view text) {
  return mapped(budget, text, [](char32_t c, char32_t) { return lower(c); });
}
std::string title_text(Budget& budget, std::string_view text) {
  return mapped(budget, text, [](char32_t c, char32_t before) {
    return is_letter(before) ? lower(c) : upper(c);
  });
}
std::string title_words(Budget& budget, std::string_view text) {
  return mapped(budget, text, [](char32_t c, char32_t before) {
    const bool begins =
        is_space(before) || std::u32string_view(U"-({[<").find(before) != std::u32string_view::npos;
    return begins ? upper(c) : lower(c);
  });
}
std::string capitalize_text(Budget& budget, std::string_view text) {
  bool first = true;
  return mapped(budget, text, [&first](char32_t c, char32_t) {
    return std::exchange(first, false) ? upper(c) : lower(c);
  });
}

// Python's line ends: besides those of ASCII, U+0085, U+2028 and U+2029.
std::vector<std::string> split_lines(Budget& budget, std::string_view text) {
  budget.make(text.size());
  constexpr std::string_view kEnds[] = {
      "\r\n", "\r",   "\n",       "\v",           "\f",          "\x1c",
      "\x1d", "\x1e", "\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xa9"};
  std::vector<std::string> lines;
  size_t end = 0;
  while (end < text.size()) {
    const auto* found = std::ranges::find_if(
        kEnds, [&](std::string_view e) { return text.substr(end).starts_with(e); });
    if (found == std::end(kEnds)) {
      ++end;
      continue;
    }
    lines.emplace_back(text.substr(0, end));
    budget.make(sizeof(Value) + sizeof(std::string));
    text.remove_prefix(std::exchange(end, 0) + found->size());
  }
  if (!text.empty()) lines.emplace_back(text);
  return lines;
}

std::string join_items(Budget& budget, const List& items, const std::string& separator) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    budget.make(items[i].size() + separator.size());
    if (i > 0) out += separator;
    out += to_text(items[i]);
  }
  return out;
}

Value key_value_pairs(Budget& budget, const Dict& dict) {
  List pairs;
  for (const auto& [key, value] : dict) {
    budget.make(key.size() + 4 * sizeof(Value));
    pairs.push_back(Value::list({Value::text(key), value}, true));
  }
  return Value::list(std::move(pairs));
}

}  // namespace limpet::engine::jinja
