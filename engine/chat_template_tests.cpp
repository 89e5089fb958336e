// Tests ({{ value is name(arguments) }}) and the arguments of calls.
#include <algorithm>
#include <iterator>

#include "engine/chat_template_operations.h"

namespace limpet::engine::jinja {
namespace {

using Arguments = CallArguments;
using Test = bool (*)(Budget&, const Value&, const Arguments&);

const Value& other(const Arguments& a) {
  if (a.positional.empty()) throw TemplateError("a test needs something to compare with");
  return a.positional.front();
}

int64_t whole(const Value& value) {
  int64_t integer = 0;
  if (!value.as_integer(integer)) throw TemplateError("a test needs an integer");
  return integer;
}

bool compare(Budget& budget, std::string_view op, const Value& value, const Arguments& a) {
  return truth(binary_operation(budget, op, value, other(a)));
}

bool is_number(const Value& value) {
  double number = 0;
  return value.as<bool>() == nullptr && value.as_number(number);
}

bool divisible(const Value& value, int64_t by) {
  if (by == 0) throw TemplateError("division by zero");
  return by == -1 || whole(value) % by == 0;
}

bool is_sequence(const Value& value) {
  return value.as_text() != nullptr || value.as_list() != nullptr || value.as_dict() != nullptr;
}

bool is_callable(const Value& value) {
  return value.as<Macro>() != nullptr || value.as<Function>() != nullptr;
}

struct Named {
  std::string_view name;
  Test test;
};
constexpr Named kTests[] = {
    {"defined", [](Budget&, const Value& v, const Arguments&) { return !v.is_undefined(); }},
    {"undefined", [](Budget&, const Value& v, const Arguments&) { return v.is_undefined(); }},
    {"none", [](Budget&, const Value& v, const Arguments&) { return v.is_none(); }},
    {"boolean", [](Budget&, const Value& v, const Arguments&) { return v.as<bool>() != nullptr; }},
    {"true",
     [](Budget&, const Value& v, const Arguments&) { return v.as<bool>() && *v.as<bool>(); }},
    {"false",
     [](Budget&, const Value& v, const Arguments&) { return v.as<bool>() && !*v.as<bool>(); }},
    {"integer",
     [](Budget&, const Value& v, const Arguments&) { return v.as<int64_t>() != nullptr; }},
    {"float", [](Budget&, const Value& v, const Arguments&) { return v.as<double>() != nullptr; }},
    {"number", [](Budget&, const Value& v, const Arguments&) { return is_number(v); }},
    {"string", [](Budget&, const Value& v, const Arguments&) { return v.as_text() != nullptr; }},
    {"mapping", [](Budget&, const Value& v, const Arguments&) { return v.as_dict() != nullptr; }},
    {"sequence", [](Budget&, const Value& v, const Arguments&) { return is_sequence(v); }},
    {"iterable",
     [](Budget&, const Value& v, const Arguments&) { return is_sequence(v) || v.is_undefined(); }},
    {"callable", [](Budget&, const Value& v, const Arguments&) { return is_callable(v); }},
    {"odd", [](Budget&, const Value& v, const Arguments&) { return whole(v) % 2 != 0; }},
    {"even", [](Budget&, const Value& v, const Arguments&) { return whole(v) % 2 == 0; }},
    {"divisibleby",
     [](Budget&, const Value& v, const Arguments& a) { return divisible(v, whole(other(a))); }},
    {"in", [](Budget& b, const Value& v, const Arguments& a) { return contains(b, other(a), v); }},
    {"sameas",
     [](Budget&, const Value& v, const Arguments& a) {
       return v.kind() == other(a).kind() && equal(v, other(a));
     }},
    {"lower",
     [](Budget& b, const Value& v, const Arguments&) {
       return truth(call_method(b, Value::text(to_text(v)), "islower", {}));
     }},
    {"upper",
     [](Budget& b, const Value& v, const Arguments&) {
       return truth(call_method(b, Value::text(to_text(v)), "isupper", {}));
     }},
    {"eq", [](Budget& b, const Value& v, const Arguments& a) { return compare(b, "==", v, a); }},
    {"ne", [](Budget& b, const Value& v, const Arguments& a) { return compare(b, "!=", v, a); }},
    {"lt", [](Budget& b, const Value& v, const Arguments& a) { return compare(b, "<", v, a); }},
    {"le", [](Budget& b, const Value& v, const Arguments& a) { return compare(b, "<=", v, a); }},
    {"gt", [](Budget& b, const Value& v, const Arguments& a) { return compare(b, ">", v, a); }},
    {"ge", [](Budget& b, const Value& v, const Arguments& a) { return compare(b, ">=", v, a); }},
};

// Other names that select() and its like may use.
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"equalto", "eq"}, {"==", "eq"}, {"!=", "ne"},          {"<", "lt"}, {"lessthan", "lt"},
    {"<=", "le"},      {">", "gt"},  {"greaterthan", "gt"}, {">=", "ge"}};

}  // namespace

bool apply_test(Budget& budget, std::string_view name, const Value& value,
                const CallArguments& arguments) {
  for (const auto& [alias, meant] : kAliases) {
    if (name == alias) name = meant;
  }
  const auto* found = std::find_if(std::begin(kTests), std::end(kTests),
                                   [name](const Named& t) { return t.name == name; });
  if (found == std::end(kTests)) {
    throw TemplateError("the test " + std::string(name) + " is not supported");
  }
  return found->test(budget, value, arguments);
}

const Value* CallArguments::get(size_t place, std::string_view name) const {
  return place < positional.size() ? &positional[place] : find(named, name);
}

int64_t CallArguments::integer(size_t place, std::string_view name, int64_t otherwise) const {
  const Value* value = get(place, name);
  if (value == nullptr || value->is_none()) return otherwise;
  int64_t integer = 0;
  if (!value->as_integer(integer)) {
    throw TemplateError("the argument " + std::string(name) + " must be an integer");
  }
  return integer;
}

std::string CallArguments::text(size_t place, std::string_view name,
                                std::string_view otherwise) const {
  const Value* value = get(place, name);
  if (value == nullptr) return std::string(otherwise);
  const std::string* text = value->as_text();
  if (text == nullptr) {
    throw TemplateError("the argument " + std::string(name) + " must be a string");
  }
  return *text;
}

bool CallArguments::flag(size_t place, std::string_view name, bool otherwise) const {
  const Value* value = get(place, name);
  return value == nullptr ? otherwise : truth(*value);
}

}  // namespace limpet::engine::jinja
