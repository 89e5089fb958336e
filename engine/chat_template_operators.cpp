// Operators and subscripts.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/chat_template_operations.h"
#include "engine/tokenizer_utf8.h"

namespace limpet::engine::jinja {
namespace {

[[noreturn]] void refuse_operands(std::string_view op, const Value& a, const Value& b) {
  throw TemplateError("cannot use " + std::string(op) + " on " + std::string(type_name(a)) +
                      " and " + std::string(type_name(b)));
}

[[noreturn]] void overflow() { throw TemplateError("a number is too large"); }

// Python's floor division and remainder.
int64_t floor_divide(int64_t a, int64_t b) {
  if (a == std::numeric_limits<int64_t>::min() && b == -1) overflow();
  const int64_t quotient = a / b;
  return a % b != 0 && (a % b < 0) != (b < 0) ? quotient - 1 : quotient;
}

Value integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base == 0 || base == 1) return Value(exponent == 0 ? int64_t{1} : base);
  if (exponent > 63 && base != -1) overflow();
  if (base == -1) return Value(exponent % 2 == 0 ? int64_t{1} : int64_t{-1});
  int64_t result = 1;
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) overflow();
  }
  return Value(result);
}

Value integer_operation(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+") {
    if (__builtin_add_overflow(a, b, &result)) overflow();
  } else if (op == "-") {
    if (__builtin_sub_overflow(a, b, &result)) overflow();
  } else if (op == "*") {
    if (__builtin_mul_overflow(a, b, &result)) overflow();
  } else if (op == "**") {
    return integer_power(a, b);
  } else {
    if (b == 0) throw TemplateError("division by zero");
    if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
    const int64_t quotient = floor_divide(a, b);
    result = op == "//" ? quotient : a - quotient * b;
  }
  return Value(result);
}

Value real_operation(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) throw TemplateError("division by zero");
  if (op == "/") return Value(a / b);
  const double quotient = std::floor(a / b);
  return Value(op == "//" ? quotient : a - quotient * b);
}

Value repeated(Budget& budget, const Value& value, int64_t times) {
  const std::string* text = value.as_text();
  const List* list = value.as_list();
  const size_t unit = text != nullptr ? text->size() : list->size() * sizeof(Value);
  times = std::max<int64_t>(times, 0);
  if (unit > 0 && times > Budget::kBytes / static_cast<int64_t>(unit)) {
    throw TemplateError("the template makes too much text");
  }
  budget.make(unit * static_cast<size_t>(times));
  std::string repeated_text;
  List repeated_list;
  for (int64_t i = 0; unit > 0 && i < times; ++i) {
    if (text != nullptr) {
      repeated_text += *text;
    } else {
      repeated_list.insert(repeated_list.end(), list->begin(), list->end());
    }
  }
  return text != nullptr ? Value::text(std::move(repeated_text))
                         : Value::list(std::move(repeated_list), value.as<Sequence>()->tuple);
}

Value sum_of(Budget& budget, const Value& a, const Value& b) {
  if (const auto* sa = a.as_text(), *sb = b.as_text(); sa != nullptr && sb != nullptr) {
    budget.make(sa->size() + sb->size());
    return Value::text(*sa + *sb);
  }
  const auto *la = a.as_list(), *lb = b.as_list();
  if (la == nullptr || lb == nullptr || a.as<Sequence>()->tuple != b.as<Sequence>()->tuple) {
    refuse_operands("+", a, b);
  }
  budget.make((la->size() + lb->size()) * sizeof(Value));
  List items = *la;
  items.insert(items.end(), lb->begin(), lb->end());
  return Value::list(std::move(items), a.as<Sequence>()->tuple);
}

// A place counted from the end when negative; -1 when there is none.
int64_t place_of(int64_t index, size_t size) {
  if (index < 0) index += static_cast<int64_t>(size);
  return index >= 0 && index < static_cast<int64_t>(size) ? index : -1;
}

std::string_view from_character(std::string_view text, size_t place) {
  for (; place > 0; --place) text.remove_prefix(utf8_step(text).length);
  return text;
}

struct SliceBounds {
  int64_t from, to, by;
};

// As CPython's PySlice_AdjustIndices.
SliceBounds slice_bounds(size_t size, const Value* start, const Value* stop, const Value* step) {
  const auto bound = [](const Value* value, int64_t otherwise) {
    int64_t integer = otherwise;
    if (value != nullptr && !value->is_none() && !value->as_integer(integer)) {
      throw TemplateError("a slice needs integers");
    }
    return integer;
  };
  const bool has_start = start != nullptr && !start->is_none();
  const bool has_stop = stop != nullptr && !stop->is_none();
  const int64_t by = bound(step, 1), length = static_cast<int64_t>(size);
  if (by == 0) throw TemplateError("a slice's step cannot be zero");
  const auto clamp = [&](int64_t at) {
    if (at < 0) at = at < -length ? (by < 0 ? -1 : 0) : at + length;
    return std::min(at, by < 0 ? length - 1 : length);
  };
  return {has_start ? clamp(bound(start, 0)) : (by < 0 ? length - 1 : 0),
          has_stop ? clamp(bound(stop, 0)) : (by < 0 ? -1 : length), by};
}

std::vector<size_t> slice_places(size_t size, const Value* start, const Value* stop,
                                 const Value* step) {
  auto [from, to, by] = slice_bounds(size, start, stop, step);
  const auto length = static_cast<int64_t>(size);
  std::vector<size_t> places;
  while (by > 0 ? from < to : from > to) {
    places.push_back(static_cast<size_t>(from));
    if (by > length || by < -length) break;
    from += by;
  }
  return places;
}

bool is_comparison(std::string_view op) {
  return op == "<" || op == ">" || op == "<=" || op == ">=";
}

}  // namespace

std::vector<std::string_view> characters_of(Budget& budget, std::string_view text) {
  budget.make(text.size() * sizeof(std::string_view));
  std::vector<std::string_view> characters;
  while (!text.empty()) {
    const size_t length = utf8_step(text).length;
    characters.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return characters;
}

List items_of(Budget& budget, const Value& value) {
  List items;
  if (const List* list = value.as_list()) {
    budget.make(list->size() * sizeof(Value));
    return *list;
  }
  if (const Dict* dict = value.as_dict()) {
    budget.make(dict->size() * sizeof(Value));
    for (const auto& item : *dict) items.push_back(Value::text(item.first));
  } else if (const std::string* text = value.as_text()) {
    for (std::string_view c : characters_of(budget, *text)) {
      budget.make(sizeof(Value));
      items.push_back(Value::text(std::string(c)));
    }
  } else if (!value.is_undefined()) {
    throw TemplateError("a value of type " + std::string(type_name(value)) + " has no items");
  }
  return items;
}

bool contains(Budget& budget, const Value& container, const Value& item) {
  budget.scan(std::min(container.size(), size_t{1} << 30));
  if (const std::string* text = container.as_text()) {
    const std::string* part = item.as_text();
    if (part == nullptr) refuse_operands("in", item, container);
    return text->find(*part) != std::string::npos;
  }
  if (const Dict* dict = container.as_dict()) {
    const std::string* key = item.as_text();
    return key != nullptr && find(*dict, *key) != nullptr;
  }
  const List items = items_of(budget, container);
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(v, item); });
}

Value negative(const Value& value) {
  int64_t integer = 0;
  if (value.as_integer(integer)) return integer_operation("-", 0, integer);
  double number = 0;
  if (!value.as_number(number)) refuse_operands("-", value, value);
  return Value(-number);
}

Value binary_operation(Budget& budget, std::string_view op, const Value& a, const Value& b) {
  if (op == "==" || op == "!=") {
    budget.scan(std::min(a.size(), b.size()));
    return Value(equal(a, b) == (op == "=="));
  }
  if (op == "in" || op == "not in") return Value(contains(budget, b, a) == (op == "in"));
  if (is_comparison(op)) {
    budget.scan(std::min(a.size(), b.size()));
    const bool swapped = op == ">" || op == "<=";
    const bool is_less = swapped ? less(b, a) : less(a, b);
    return Value(is_less == (op.size() == 1));
  }
  if (op == "~") {
    budget.make(a.size() + b.size());
    return Value::text(to_text(a) + to_text(b));
  }
  int64_t ia = 0, ib = 0;
  const bool integer_a = a.as_integer(ia), integer_b = b.as_integer(ib);
  if (integer_a && integer_b) return integer_operation(op, ia, ib);
  double da = 0, db = 0;
  if (a.as_number(da) && b.as_number(db)) return real_operation(op, da, db);
  const auto repeatable = [](const Value& v) {
    return v.as_text() != nullptr || v.as_list() != nullptr;
  };
  if (op == "*" && repeatable(a) && integer_b) return repeated(budget, a, ib);
  if (op == "*" && integer_a && repeatable(b)) return repeated(budget, b, ia);
  if (op == "+") return sum_of(budget, a, b);
  refuse_operands(op, a, b);
}

Value attribute_of(Budget& budget, const Value& object, std::string_view name) {
  const Value* found = nullptr;
  if (const Dict* dict = object.as_dict()) {
    budget.step(1 + static_cast<int64_t>(dict->size() / 16));
    found = find(*dict, name);
  } else if (const auto* space = object.as<std::shared_ptr<Namespace>>()) {
    found = find((*space)->items, name);
  } else if (const auto* undefined = object.as<Undefined>()) {
    throw TemplateError(undefined->name + " is undefined, so it has no " + std::string(name));
  }
  return found != nullptr ? *found : Value(Undefined{std::string(name)});
}

Value item_of(Budget& budget, const Value& object, const Value& key) {
  if (const std::string* name = key.as_text()) return attribute_of(budget, object, *name);
  if (object.is_undefined()) return attribute_of(budget, object, to_text(key));
  int64_t index = 0;
  if (!key.as_integer(index)) {
    return Value(Undefined{"item"});
  }
  if (const List* list = object.as_list()) {
    const int64_t place = place_of(index, list->size());
    return place < 0 ? Value(Undefined{"item"}) : (*list)[static_cast<size_t>(place)];
  }
  if (const std::string* text = object.as_text()) {
    budget.scan(text->size());
    const int64_t place = place_of(index, utf8_length(*text));
    if (place < 0) return Value(Undefined{"item"});
    const std::string_view rest = from_character(*text, static_cast<size_t>(place));
    return Value::text(std::string(rest.substr(0, utf8_step(rest).length)));
  }
  return Value(Undefined{"item"});
}

Value slice_of(Budget& budget, const Value& object, const Value* start, const Value* stop,
               const Value* step) {
  if (const List* list = object.as_list()) {
    budget.make(list->size() * sizeof(Value));
    List items;
    for (size_t place : slice_places(list->size(), start, stop, step)) {
      items.push_back((*list)[place]);
    }
    return Value::list(std::move(items), object.as<Sequence>()->tuple);
  }
  const std::string* text = object.as_text();
  if (text == nullptr) {
    throw TemplateError("cannot slice a value of type " + std::string(type_name(object)));
  }
  budget.scan(text->size());
  budget.make(text->size());
  if (step == nullptr || step->is_none()) {
    const SliceBounds bounds = slice_bounds(utf8_length(*text), start, stop, step);
    if (bounds.from >= bounds.to) return Value::text("");
    const std::string_view rest = from_character(*text, static_cast<size_t>(bounds.from));
    const size_t count = static_cast<size_t>(bounds.to - bounds.from);
    const size_t left = from_character(rest, count).size();
    return Value::text(std::string(rest.substr(0, rest.size() - left)));
  }
  const auto characters = characters_of(budget, *text);
  std::string out;
  for (size_t place : slice_places(characters.size(), start, stop, step)) out += characters[place];
  return Value::text(std::move(out));
}

}  // namespace limpet::engine::jinja
