// What a chat template can do with values: operators, subscripts, methods, filters, tests. All
// are functions of their arguments; each spends the budget for what it walks or makes, and throws
// TemplateError for what Python or Jinja would refuse.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat_template_value.h"

namespace limpet::engine::jinja {

struct CallArguments {
  List positional;
  Dict named;

  // The argument at this place or of this name; null when it is not given.
  const Value* get(size_t place, std::string_view name) const;
  int64_t integer(size_t place, std::string_view name, int64_t otherwise) const;
  std::string text(size_t place, std::string_view name, std::string_view otherwise) const;
  bool flag(size_t place, std::string_view name, bool otherwise) const;
};

// What a loop goes over: a list's items, a dictionary's keys, a text's characters.
List items_of(Budget& budget, const Value& value);
std::vector<std::string_view> characters_of(Budget& budget, std::string_view text);

Value binary_operation(Budget& budget, std::string_view op, const Value& a, const Value& b);
Value negative(const Value& value);
bool contains(Budget& budget, const Value& container, const Value& item);

Value attribute_of(Budget& budget, const Value& object, std::string_view name);
Value item_of(Budget& budget, const Value& object, const Value& key);
// Bounds are null or none where they are not given.
Value slice_of(Budget& budget, const Value& object, const Value* start, const Value* stop,
               const Value* step);

bool has_method(const Value& object, std::string_view name);
Value call_method(Budget& budget, const Value& object, std::string_view name,
                  const CallArguments& arguments);

Value apply_filter(Budget& budget, std::string_view name, const Value& value,
                   const CallArguments& arguments);
bool apply_test(Budget& budget, std::string_view name, const Value& value,
                const CallArguments& arguments);

// Python's str methods that filters share.
std::string strip_text(Budget& budget, const std::string& text, const Value* characters, bool left,
                       bool right);
std::string replace_text(Budget& budget, const std::string& text, const std::string& what,
                         const std::string& with, int64_t count);
std::string upper_text(Budget& budget, std::string_view text);
std::string lower_text(Budget& budget, std::string_view text);
std::string title_text(Budget& budget, std::string_view text);   // str.title: after a non-letter
std::string title_words(Budget& budget, std::string_view text);  // the filter: after - ( { [ <
std::string capitalize_text(Budget& budget, std::string_view text);
std::vector<std::string> split_lines(Budget& budget, std::string_view text);
std::string join_items(Budget& budget, const List& items, const std::string& separator);
Value key_value_pairs(Budget& budget, const Dict& dict);

}  // namespace limpet::engine::jinja
