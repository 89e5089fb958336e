#include "engine/chat_template_value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "engine/tokenizer_utf8.h"

namespace limpet::engine::jinja {
namespace {

constexpr int kMaxNesting = 64;          // of lists and dictionaries
constexpr size_t kMaxKeys = 4096;        // of a dictionary
constexpr size_t kMaxSize = 64u << 20;   // of a list or dictionary, written out
constexpr size_t kMaxJson = 128u << 20;  // bytes

// repr() of a float: the shortest digits that read back, fixed from 1e-4 to 1e16.
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[400];
  const double size = std::fabs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto format = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, format).ptr;
  std::string text(buffer, end);
  if (fixed && text.find('.') == std::string::npos) text += ".0";
  return text;
}

// What str() gives of a scalar; false for containers.
bool scalar_text(const Value& value, std::string& out) {
  int64_t integer = 0;
  if (value.is_undefined()) {
    out.clear();
  } else if (value.is_none()) {
    out = "None";
  } else if (const bool* b = value.as<bool>()) {
    out = *b ? "True" : "False";
  } else if (value.as_integer(integer)) {
    out = std::to_string(integer);
  } else if (const double* d = value.as<double>()) {
    out = float_text(*d);
  } else if (const std::string* s = value.as_text()) {
    out = *s;
  } else if (value.as_list() != nullptr || value.as_dict() != nullptr) {
    return false;
  } else {
    out = "<" + std::string(type_name(value)) + ">";
  }
  return true;
}

std::string quoted(const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos;
  const char quote = has_single && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (char c : text) {
    if (c == quote || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + quote;
}

void json_escape(char32_t c, std::string& out) {
  char escape[16];
  if (c > 0xFFFF) {
    const unsigned rest = static_cast<unsigned>(c) - 0x10000;
    std::snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xD800 + (rest >> 10),
                  0xDC00 + (rest & 0x3FF));
  } else {
    std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
  }
  out += escape;
}

std::string json_string(std::string_view text, bool ascii) {
  std::string out = "\"";
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    const char32_t c = step.character;
    static constexpr std::string_view kFrom = "\"\\\n\r\t\b\f", kTo = "\"\\nrtbf";
    const size_t at = c < 0x80 ? kFrom.find(static_cast<char>(c)) : std::string_view::npos;
    if (at != std::string_view::npos) {
      out += {'\\', kTo[at]};
    } else if (c < 0x20 || (ascii && c >= 0x7F)) {
      json_escape(c, out);
    } else {
      out += text.substr(0, step.length);
    }
    text.remove_prefix(step.length);
  }
  return out + "\"";
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void write(const Value& value, int64_t level) {
    if (const std::string* s = value.as_text()) {
      out += json_string(*s, style_.ascii);
    } else if (const List* list = value.as_list()) {
      write_items('[', ']', list->size(), level, [&](size_t i) { write((*list)[i], level + 1); });
    } else if (const Dict* dict = value.as_dict()) {
      std::vector<const std::pair<std::string, Value>*> items;
      for (const auto& item : *dict) items.push_back(&item);
      if (style_.sort_keys) {
        std::sort(items.begin(), items.end(), [](auto* a, auto* b) { return a->first < b->first; });
      }
      write_items('{', '}', items.size(), level, [&](size_t i) {
        out += json_string(items[i]->first, style_.ascii) + style_.key_separator;
        write(items[i]->second, level + 1);
      });
    } else if (value.is_none()) {
      out += "null";
    } else if (const bool* b = value.as<bool>()) {
      out += *b ? "true" : "false";
    } else if (double number = 0; value.as_number(number)) {
      out += to_text(value);
    } else {
      throw TemplateError("a value of type " + std::string(type_name(value)) +
                          " cannot be written as JSON");
    }
  }

  std::string out;

 private:
  template <typename Item>
  void write_items(char open, char close, size_t count, int64_t level, const Item& item) {
    out += open;
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) out += style_.item_separator;
      new_line(level + 1);
      item(i);
    }
    if (count > 0) new_line(level);
    out += close;
  }
  void new_line(int64_t level) {
    if (out.size() > kMaxJson) throw TemplateError("a value is too large as JSON");
    if (style_.indent < 0) return;
    out += '\n';
    out.append(static_cast<size_t>(style_.indent * level), ' ');
  }
  const JsonStyle& style_;
};

}  // namespace

void Budget::step(int64_t n) {
  steps_ -= n;
  if (steps_ < 0) throw TemplateError("the template takes too many steps");
}

void Budget::make(size_t bytes) {
  bytes_ -= static_cast<int64_t>(std::min<size_t>(bytes, static_cast<size_t>(kBytes) + 1));
  if (bytes_ < 0) throw TemplateError("the template makes too much text");
}

// Sharing lets a small value stand for an exponentially large one, so what it would be written
// out is bounded as it is made.
struct Value::Extent {
  int depth = 0;
  size_t size = 8;

  void add(const Value& item, size_t key) {
    depth = std::max(depth, item.depth_);
    size += item.size_ + key + 8;
    if (size > kMaxSize) throw TemplateError("a value is too large");
  }
  void give(Value& value) const {
    if (depth >= kMaxNesting) throw TemplateError("values are nested too deeply");
    value.depth_ = depth + 1;
    value.size_ = size;
  }
};

Value Value::text(std::string text) {
  const size_t size = text.size();
  Value value(std::make_shared<const std::string>(std::move(text)));
  value.size_ = size + 8;
  return value;
}

Value Value::list(List items, bool tuple) {
  Extent extent;
  for (const Value& item : items) extent.add(item, 0);
  Value value(Sequence{std::make_shared<const List>(std::move(items)), tuple});
  extent.give(value);
  return value;
}

Value Value::dict(Dict items) {
  if (items.size() > kMaxKeys) throw TemplateError("a dict has too many keys");
  Extent extent;
  for (const auto& item : items) extent.add(item.second, item.first.size());
  Value value(std::make_shared<const Dict>(std::move(items)));
  extent.give(value);
  return value;
}

// A loop is written out as its name alone, but keeps its items alive, and they may be loops.
Value Value::loop(std::shared_ptr<LoopState> state, const List& items) {
  Extent extent;
  for (const Value& item : items) extent.depth = std::max(extent.depth, item.depth_);
  Value value(std::move(state));
  extent.give(value);
  return value;
}

const std::string* Value::as_text() const {
  const auto* text = as<std::shared_ptr<const std::string>>();
  return text == nullptr ? nullptr : text->get();
}

const List* Value::as_list() const {
  const auto* sequence = as<Sequence>();
  return sequence == nullptr ? nullptr : sequence->items.get();
}

const Dict* Value::as_dict() const {
  const auto* dict = as<std::shared_ptr<const Dict>>();
  return dict == nullptr ? nullptr : dict->get();
}

bool Value::as_integer(int64_t& out) const {
  if (const auto* i = as<int64_t>()) {
    out = *i;
  } else if (const bool* b = as<bool>()) {
    out = *b ? 1 : 0;
  } else {
    return false;
  }
  return true;
}

bool Value::as_number(double& out) const {
  int64_t integer = 0;
  if (const double* d = as<double>()) {
    out = *d;
  } else if (as_integer(integer)) {
    out = static_cast<double>(integer);
  } else {
    return false;
  }
  return true;
}

const Value* find(const Dict& dict, std::string_view key) {
  for (const auto& [name, value] : dict) {
    if (name == key) return &value;
  }
  return nullptr;
}

void assign(Dict& dict, std::string_view key, Value value) {
  for (auto& item : dict) {
    if (item.first == key) {
      item.second = std::move(value);
      return;
    }
  }
  dict.emplace_back(key, std::move(value));
}

bool truth(const Value& value) {
  double number = 0;
  if (value.is_undefined() || value.is_none()) return false;
  if (value.as_number(number)) return number != 0;
  if (const std::string* s = value.as_text()) return !s->empty();
  if (const List* list = value.as_list()) return !list->empty();
  if (const Dict* dict = value.as_dict()) return !dict->empty();
  return true;
}

bool equal(const Value& a, const Value& b) {
  int64_t ia = 0, ib = 0;
  if (a.as_integer(ia) && b.as_integer(ib)) return ia == ib;
  double da = 0, db = 0;
  if (a.as_number(da) && b.as_number(db)) return da == db;
  if (const auto* sa = a.as_text(), *sb = b.as_text(); sa != nullptr && sb != nullptr) {
    return *sa == *sb;
  }
  if (const auto* la = a.as_list(), *lb = b.as_list(); la != nullptr && lb != nullptr) {
    return a.as<Sequence>()->tuple == b.as<Sequence>()->tuple &&
           std::equal(la->begin(), la->end(), lb->begin(), lb->end(), equal);
  }
  if (const auto* ma = a.as_dict(), *mb = b.as_dict(); ma != nullptr && mb != nullptr) {
    return ma->size() == mb->size() && std::all_of(ma->begin(), ma->end(), [mb](const auto& item) {
             const Value* other = find(*mb, item.first);
             return other != nullptr && equal(item.second, *other);
           });
  }
  if (const auto* na = a.as<std::shared_ptr<Namespace>>()) {
    const auto* nb = b.as<std::shared_ptr<Namespace>>();
    return nb != nullptr && *na == *nb;
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool less(const Value& a, const Value& b) {
  int64_t ia = 0, ib = 0;
  if (a.as_integer(ia) && b.as_integer(ib)) return ia < ib;
  double da = 0, db = 0;
  if (a.as_number(da) && b.as_number(db)) return da < db;
  if (const auto* sa = a.as_text(), *sb = b.as_text(); sa != nullptr && sb != nullptr) {
    return *sa < *sb;  // the order of UTF-8 is that of its characters
  }
  if (const auto* la = a.as_list(), *lb = b.as_list(); la != nullptr && lb != nullptr) {
    return std::lexicographical_compare(la->begin(), la->end(), lb->begin(), lb->end(), less);
  }
  throw TemplateError("cannot compare " + std::string(type_name(a)) + " and " +
                      std::string(type_name(b)));
}

std::string_view type_name(const Value& value) {
  static constexpr std::array<std::string_view, std::variant_size_v<Value::Storage>> kNames = {
      "undefined", "none", "boolean",   "integer", "float", "string",
      "list",      "dict", "namespace", "loop",    "macro", "function"};
  return kNames[value.kind()];
}

std::string to_text(const Value& value) {
  std::string out;
  return scalar_text(value, out) ? out : to_repr(value);
}

std::string to_repr(const Value& value) {
  std::string out;
  if (const std::string* s = value.as_text()) return quoted(*s);
  if (const List* list = value.as_list()) {
    const bool tuple = value.as<Sequence>()->tuple;
    out = tuple ? "(" : "[";
    for (size_t i = 0; i < list->size(); ++i) out += (i > 0 ? ", " : "") + to_repr((*list)[i]);
    if (tuple && list->size() == 1) out += ",";
    return out + (tuple ? ")" : "]");
  }
  if (const Dict* dict = value.as_dict()) {
    out = "{";
    for (size_t i = 0; i < dict->size(); ++i) {
      out += (i > 0 ? ", " : "") + quoted((*dict)[i].first) + ": " + to_repr((*dict)[i].second);
    }
    return out + "}";
  }
  if (value.is_undefined()) return "Undefined";
  scalar_text(value, out);
  return out;
}

std::string to_json(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.write(value, 0);
  return writer.out;
}

}  // namespace limpet::engine::jinja
