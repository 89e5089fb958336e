// The values of a chat template: Python's, as Jinja shows them. Values are immutable and shared,
// but for namespaces; text is UTF-8 (bytes that are not pass through).
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace limpet::engine::jinja {

// What ends a rendering (or a parse): caught in chat_template.cpp.
struct TemplateError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct TemplateRefusal : TemplateError {  // by the template itself: raise_exception
  using TemplateError::TemplateError;
};

// What a rendering may still cost; spending more throws TemplateError.
class Budget {
 public:
  static constexpr int64_t kSteps = 10'000'000;
  static constexpr int64_t kBytes = 256 << 20;  // made in all, not held at once
  static constexpr int kDepth = 300;            // of evaluation, in nested calls

  void step(int64_t n = 1);
  void scan(size_t bytes) { step(1 + static_cast<int64_t>(bytes / 64)); }
  void make(size_t bytes);

 private:
  int64_t steps_ = kSteps, bytes_ = kBytes;
};

class Value;
using List = std::vector<Value>;
using Dict = std::vector<std::pair<std::string, Value>>;  // in order of insertion, keys unique
struct MacroCode;                                         // chat_template_ast.h
struct LoopState;                                         // chat_template_eval.h
struct Namespace;

struct Undefined {
  std::string name;  // for messages
};
struct None {};
struct Sequence {
  std::shared_ptr<const List> items;
  bool tuple = false;
};
struct Macro {
  const MacroCode* code = nullptr;
  size_t scopes = 0;  // how many scopes were open where it was defined
};
struct Function {  // a global: range, namespace, ...
  std::string name;
};

class Value {
 public:
  using Text = std::shared_ptr<const std::string>;
  using Storage = std::variant<Undefined, None, bool, int64_t, double, Text, Sequence,
                               std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                               std::shared_ptr<LoopState>, Macro, Function>;
  Value() : storage_(Undefined{}) {}
  template <typename T>
  explicit Value(T value) : storage_(std::move(value)) {}

  static Value text(std::string text);
  static Value list(List items, bool tuple = false);  // throws when nested too deeply, or when
  static Value dict(Dict items);                      // too large written out
  static Value loop(std::shared_ptr<LoopState> state, const List& items);

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&storage_);
  }
  bool is_undefined() const { return as<Undefined>() != nullptr; }
  bool is_none() const { return as<None>() != nullptr; }
  const std::string* as_text() const;
  const List* as_list() const;
  const Dict* as_dict() const;
  bool as_integer(int64_t& out) const;  // integers and booleans
  bool as_number(double& out) const;    // those and floats
  size_t kind() const { return storage_.index(); }
  size_t size() const { return size_; }  // about the bytes it takes, written out

 private:
  struct Extent;
  Storage storage_;
  int depth_ = 0;    // of lists in lists
  size_t size_ = 8;  // of all in it, as if nothing were shared
};

struct Namespace {
  Dict items;
};

const Value* find(const Dict& dict, std::string_view key);
void assign(Dict& dict, std::string_view key, Value value);

bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
bool less(const Value& a, const Value& b);       // numbers, texts; else throws
std::string_view type_name(const Value& value);  // for messages

// Python's str(), repr() and json.dumps() of a value.
std::string to_text(const Value& value);
std::string to_repr(const Value& value);
struct JsonStyle {
  int64_t indent = -1;  // -1: on one line
  bool sort_keys = false, ascii = false;
  std::string item_separator = ", ", key_separator = ": ";
};
std::string to_json(const Value& value, const JsonStyle& style);

}  // namespace limpet::engine::jinja
