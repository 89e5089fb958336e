// Filters: {{ value | name(arguments) }}.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <iterator>

#include "engine/chat_template_operations.h"
#include "engine/tokenizer_utf8.h"

namespace limpet::engine::jinja {
namespace {

using Arguments = CallArguments;
using Filter = Value (*)(Budget&, const Value&, const Arguments&);

// An attribute by its path: "function.name", "0"; `otherwise` for each that is undefined.
Value along_path(Budget& budget, Value value, const std::string& path,
                 const Value* otherwise = nullptr) {
  for (size_t from = 0; from <= path.size();) {
    const size_t dot = std::min(path.find('.', from), path.size());
    const std::string name = path.substr(from, dot - from);
    from = dot + 1;
    const bool digits = !name.empty() && name.find_first_not_of("0123456789") == std::string::npos;
    value = digits && name.size() < 10 ? item_of(budget, value, Value(int64_t{std::stoi(name)}))
                                       : attribute_of(budget, value, name);
    if (value.is_undefined() && otherwise != nullptr) value = *otherwise;
  }
  return value;
}

// What an item is compared by: itself or an attribute, texts without case unless asked for.
Value sort_key(Budget& budget, const Value& item, const Value* attribute, bool case_sensitive) {
  const std::string* path = attribute == nullptr ? nullptr : attribute->as_text();
  const Value key = path == nullptr ? item : along_path(budget, item, *path);
  const std::string* text = key.as_text();
  return text != nullptr && !case_sensitive ? Value::text(lower_text(budget, *text)) : key;
}

Value default_filter(Budget&, const Value& value, const Arguments& a) {
  const bool missing = a.flag(1, "boolean", false) ? !truth(value) : value.is_undefined();
  const Value* otherwise = a.get(0, "default_value");
  return !missing ? value : otherwise != nullptr ? *otherwise : Value::text("");
}

Value length_filter(Budget& budget, const Value& value, const Arguments&) {
  if (const List* list = value.as_list()) return Value(static_cast<int64_t>(list->size()));
  if (const Dict* dict = value.as_dict()) return Value(static_cast<int64_t>(dict->size()));
  if (value.is_undefined()) return Value(int64_t{0});
  const std::string* text = value.as_text();
  if (text == nullptr) {
    throw TemplateError("a value of type " + std::string(type_name(value)) + " has no length");
  }
  budget.scan(text->size());
  return Value(static_cast<int64_t>(utf8_length(*text)));
}

Value trim_filter(Budget& budget, const Value& value, const Arguments& a) {
  return Value::text(strip_text(budget, to_text(value), a.get(0, "chars"), true, true));
}

Value join_filter(Budget& budget, const Value& value, const Arguments& a) {
  List items = items_of(budget, value);
  if (const Value* attribute = a.get(1, "attribute")) {
    for (Value& item : items) item = along_path(budget, item, to_text(*attribute));
  }
  return Value::text(join_items(budget, items, a.text(0, "d", "")));
}

Value replace_filter(Budget& budget, const Value& value, const Arguments& a) {
  const int64_t count = a.integer(2, "count", Budget::kBytes);
  return Value::text(
      replace_text(budget, to_text(value), a.text(0, "old", ""), a.text(1, "new", ""), count));
}

template <std::string (*Change)(Budget&, std::string_view)>
Value cased(Budget& budget, const Value& value, const Arguments&) {
  budget.make(value.size());
  return Value::text(Change(budget, to_text(value)));
}

Value attr_filter(Budget& budget, const Value& value, const Arguments& a) {
  return attribute_of(budget, value, a.text(0, "name", ""));
}

Value first_filter(Budget& budget, const Value& value, const Arguments&) {
  const List items = items_of(budget, value);
  return items.empty() ? Value(Undefined{"first item"}) : items.front();
}
Value last_filter(Budget& budget, const Value& value, const Arguments&) {
  const List items = items_of(budget, value);
  return items.empty() ? Value(Undefined{"last item"}) : items.back();
}
Value list_filter(Budget& budget, const Value& value, const Arguments&) {
  return Value::list(items_of(budget, value));
}
Value string_filter(Budget& budget, const Value& value, const Arguments&) {
  budget.make(value.size());
  return Value::text(to_text(value));
}
Value same_filter(Budget&, const Value& value, const Arguments&) { return value; }

Value reverse_filter(Budget& budget, const Value& value, const Arguments&) {
  List items = items_of(budget, value);
  std::reverse(items.begin(), items.end());
  if (value.as_text() != nullptr) return Value::text(join_items(budget, items, ""));
  return Value::list(std::move(items));
}

Value sort_filter(Budget& budget, const Value& value, const Arguments& a) {
  struct Keyed {
    Value key, item;
  };
  std::vector<Keyed> keyed;
  for (Value& item : items_of(budget, value)) {
    Value key = sort_key(budget, item, a.get(2, "attribute"), a.flag(1, "case_sensitive", false));
    keyed.push_back({std::move(key), std::move(item)});
  }
  const bool reverse = a.flag(0, "reverse", false);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& x, const Keyed& y) {
    budget.step();
    return reverse ? less(y.key, x.key) : less(x.key, y.key);
  });
  List items;
  for (Keyed& k : keyed) items.push_back(std::move(k.item));
  return Value::list(std::move(items));
}

Value unique_filter(Budget& budget, const Value& value, const Arguments& a) {
  List items, keys;
  for (Value& item : items_of(budget, value)) {
    Value key = sort_key(budget, item, a.get(1, "attribute"), a.flag(0, "case_sensitive", false));
    budget.step(static_cast<int64_t>(keys.size()));
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return equal(k, key); })) {
      continue;
    }
    keys.push_back(std::move(key));
    items.push_back(std::move(item));
  }
  return Value::list(std::move(items));
}

// The arguments after the first `count`, for the filter or test that these name.
Arguments remaining(const Arguments& a, size_t count) {
  Arguments rest;
  for (size_t i = count; i < a.positional.size(); ++i) rest.positional.push_back(a.positional[i]);
  rest.named = a.named;
  return rest;
}

Value map_filter(Budget& budget, const Value& value, const Arguments& a) {
  List items = items_of(budget, value);
  const Value* attribute = find(a.named, "attribute");
  const Value* otherwise = find(a.named, "default");
  const std::string filter = attribute == nullptr ? a.text(0, "filter", "") : "";
  const Arguments rest = remaining(a, 1);
  for (Value& item : items) {
    budget.step();
    item = attribute == nullptr ? apply_filter(budget, filter, item, rest)
                                : along_path(budget, item, to_text(*attribute), otherwise);
  }
  return Value::list(std::move(items));
}

// select, reject, selectattr, rejectattr: items whose test (truth, by default) comes out so.
template <bool ByAttribute, bool Keep>
Value selected(Budget& budget, const Value& value, const Arguments& a) {
  const size_t first = ByAttribute ? 1 : 0;
  const std::string test = a.text(first, "test", "");
  const Arguments rest = remaining(a, first + 1);
  List items;
  for (Value& item : items_of(budget, value)) {
    budget.step();
    const Value subject = ByAttribute ? along_path(budget, item, a.text(0, "attribute", "")) : item;
    const bool holds = test.empty() ? truth(subject) : apply_test(budget, test, subject, rest);
    if (holds == Keep) items.push_back(std::move(item));
  }
  return Value::list(std::move(items));
}

Value items_filter(Budget& budget, const Value& value, const Arguments&) {
  if (value.is_undefined()) return Value::list({});
  const Dict* dict = value.as_dict();
  if (dict == nullptr) throw TemplateError("the filter items needs a dict");
  return key_value_pairs(budget, *dict);
}

Value dictsort_filter(Budget& budget, const Value& value, const Arguments& a) {
  const bool by_value = a.text(1, "by", "key") == "value";
  Arguments order;
  order.named = {{"attribute", Value::text(by_value ? "1" : "0")},
                 {"case_sensitive", Value(a.flag(0, "case_sensitive", false))},
                 {"reverse", Value(a.flag(2, "reverse", false))}};
  return sort_filter(budget, items_filter(budget, value, a), order);
}

Value tojson_filter(Budget& budget, const Value& value, const Arguments& a) {
  JsonStyle style;
  style.ascii = a.flag(0, "ensure_ascii", false);
  style.sort_keys = a.flag(3, "sort_keys", false);
  style.indent = std::clamp<int64_t>(a.integer(1, "indent", -1), -1, 16);
  if (style.indent >= 0) style.item_separator = ",";
  if (const Value* separators = a.get(2, "separators")) {
    if (const List* pair = separators->as_list(); pair != nullptr && pair->size() == 2) {
      style.item_separator = to_text((*pair)[0]);
      style.key_separator = to_text((*pair)[1]);
    }
  }
  budget.make(value.size() * 2);
  std::string json = to_json(value, style);
  budget.make(json.size());
  return Value::text(std::move(json));
}

Value int_filter(Budget&, const Value& value, const Arguments& a) {
  const int64_t otherwise = a.integer(0, "default", 0);
  int64_t integer = 0;
  if (value.as_integer(integer)) return Value(integer);
  double number = 0;
  if (const std::string* text = value.as_text()) {
    char* end = nullptr;
    number = std::strtod(text->c_str(), &end);
    while (*end == ' ' || *end == '\n' || *end == '\t') ++end;
    if (end == text->c_str() || *end != '\0') return Value(otherwise);
  } else if (!value.as_number(number)) {
    return Value(otherwise);
  }
  // Beyond this a double is no int64; NaN fails both.
  if (!(number > -9.2e18 && number < 9.2e18)) return Value(otherwise);
  return Value(static_cast<int64_t>(number));
}

Value float_filter(Budget&, const Value& value, const Arguments& a) {
  double number = 0;
  if (const Value* otherwise = a.get(0, "default")) otherwise->as_number(number);
  if (const std::string* text = value.as_text()) {
    char* end = nullptr;
    const double read = std::strtod(text->c_str(), &end);
    return Value(end != text->c_str() && *end == '\0' ? read : number);
  }
  value.as_number(number);
  return Value(number);
}

Value abs_filter(Budget&, const Value& value, const Arguments&) {
  int64_t integer = 0;
  double number = 0;
  if (value.as_integer(integer)) return integer < 0 ? negative(value) : Value(integer);
  if (!value.as_number(number)) throw TemplateError("the filter abs needs a number");
  return Value(std::fabs(number));
}

Value round_filter(Budget&, const Value& value, const Arguments& a) {
  double number = 0;
  if (!value.as_number(number)) throw TemplateError("the filter round needs a number");
  const int64_t digits = std::clamp<int64_t>(a.integer(0, "precision", 0), -300, 300);
  const double scale = std::pow(10.0, static_cast<double>(digits));
  const std::string method = a.text(1, "method", "common");
  const double scaled = number * scale;
  const double rounded = method == "ceil"    ? std::ceil(scaled)
                         : method == "floor" ? std::floor(scaled)
                                             : std::nearbyint(scaled);
  return Value(rounded / scale);
}

Value indent_filter(Budget& budget, const Value& value, const Arguments& a) {
  const Value* width = a.get(0, "width");
  const std::string* given = width == nullptr ? nullptr : width->as_text();
  const auto columns = static_cast<size_t>(
      given != nullptr ? 0 : std::clamp<int64_t>(a.integer(0, "width", 4), 0, 1000));
  const std::string indention = given != nullptr ? *given : std::string(columns, ' ');
  const bool blank = a.flag(2, "blank", false);
  const std::vector<std::string> lines = split_lines(budget, to_text(value) + "\n");
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    budget.make(lines[i].size() + indention.size() + 1);
    if (i > 0) out += '\n';
    const bool indented = i == 0 ? a.flag(1, "first", false) : blank || !lines[i].empty();
    if (indented) out += indention;
    out += lines[i];
  }
  return Value::text(std::move(out));
}

Value escape_filter(Budget& budget, const Value& value, const Arguments&) {
  std::string out;
  budget.make(value.size() * 5);
  for (char c : to_text(value)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return Value::text(std::move(out));
}

Value sum_filter(Budget& budget, const Value& value, const Arguments& a) {
  const Value* start = a.get(1, "start");
  Value sum = start != nullptr ? *start : Value(int64_t{0});
  const Value* attribute = a.get(0, "attribute");
  for (const Value& item : items_of(budget, value)) {
    sum = binary_operation(
        budget, "+", sum,
        attribute == nullptr ? item : along_path(budget, item, to_text(*attribute)));
  }
  return sum;
}

template <bool Largest>
Value extreme(Budget& budget, const Value& value, const Arguments& a) {
  Arguments order;
  order.named = {{"case_sensitive", Value(a.flag(0, "case_sensitive", false))},
                 {"reverse", Value(Largest)}};
  if (const Value* attribute = a.get(1, "attribute")) {
    order.named.emplace_back("attribute", *attribute);
  }
  return first_filter(budget, sort_filter(budget, value, order), a);
}

Value wordcount_filter(Budget& budget, const Value& value, const Arguments&) {
  const Value words = call_method(budget, Value::text(to_text(value)), "split", {});
  return Value(static_cast<int64_t>(words.as_list()->size()));
}

struct Named {
  std::string_view name;
  Filter filter;
};
constexpr Named kFilters[] = {
    {"default", default_filter},
    {"d", default_filter},
    {"length", length_filter},
    {"count", length_filter},
    {"trim", trim_filter},
    {"join", join_filter},
    {"replace", replace_filter},
    {"first", first_filter},
    {"last", last_filter},
    {"list", list_filter},
    {"string", string_filter},
    {"safe", same_filter},
    {"reverse", reverse_filter},
    {"sort", sort_filter},
    {"unique", unique_filter},
    {"map", map_filter},
    {"items", items_filter},
    {"dictsort", dictsort_filter},
    {"tojson", tojson_filter},
    {"int", int_filter},
    {"float", float_filter},
    {"abs", abs_filter},
    {"round", round_filter},
    {"indent", indent_filter},
    {"escape", escape_filter},
    {"e", escape_filter},
    {"sum", sum_filter},
    {"wordcount", wordcount_filter},
    {"upper", cased<upper_text>},
    {"lower", cased<lower_text>},
    {"title", cased<title_words>},
    {"capitalize", cased<capitalize_text>},
    {"attr", attr_filter},
    {"select", selected<false, true>},
    {"reject", selected<false, false>},
    {"selectattr", selected<true, true>},
    {"rejectattr", selected<true, false>},
    {"min", extreme<false>},
    {"max", extreme<true>},
};

}  // namespace

Value apply_filter(Budget& budget, std::string_view name, const Value& value,
                   const CallArguments& arguments) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [name](const Named& f) { return f.name == name; });
  if (found == std::end(kFilters)) {
    throw TemplateError("the filter " + std::string(name) + " is not supported");
  }
  return found->filter(budget, value, arguments);
}

}  // namespace limpet::engine::jinja
