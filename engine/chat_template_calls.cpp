// What a chat template can call: macros, the loop's methods, and the global functions.
#include <algorithm>
#include <ctime>
#include <iterator>

#include "engine/chat_template_eval.h"

namespace limpet::engine::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // items
constexpr size_t kMaxTimeFormat = 256;  // bytes

constexpr std::string_view kFunctions[] = {"range", "namespace", "dict", "raise_exception",
                                           "strftime_now"};

}  // namespace

bool Evaluator::is_function(std::string_view name) {
  return std::find(std::begin(kFunctions), std::end(kFunctions), name) != std::end(kFunctions);
}

Value Evaluator::call(const Expression& e) {
  const Expression& callee = *e.operands[0];
  if (callee.kind == Expression::Kind::attribute) {
    const Value object = evaluate(*callee.operands[0]);
    const CallArguments arguments = evaluate_arguments(e.arguments);
    if (has_method(object, callee.text)) {
      return call_method(budget_, object, callee.text, arguments);
    }
    if (const auto* loop = object.as<std::shared_ptr<LoopState>>()) {
      return call_loop(**loop, callee.text, arguments);
    }
    const Value found = attribute(object, callee.text);
    if (const Macro* macro = found.as<Macro>()) return call_macro(*macro, arguments);
    throw TemplateError("a value of type " + std::string(type_name(object)) + " has no method " +
                        callee.text);
  }
  const Value function = evaluate(callee);
  const CallArguments arguments = evaluate_arguments(e.arguments);
  if (const Macro* macro = function.as<Macro>()) return call_macro(*macro, arguments);
  if (const Function* global = function.as<Function>()) {
    return call_function(global->name, arguments);
  }
  const auto* undefined = function.as<Undefined>();
  throw TemplateError(undefined != nullptr
                          ? undefined->name + " is undefined, so it cannot be called"
                          : "a " + std::string(type_name(function)) + " cannot be called");
}

Value Evaluator::call_loop(LoopState& loop, const std::string& name,
                           const CallArguments& arguments) {
  if (name == "cycle" && !arguments.positional.empty()) {
    return arguments.positional[loop.index % arguments.positional.size()];
  }
  if (name == "changed") {
    const Value asked = Value::list(arguments.positional);
    budget_.make(asked.size());
    std::string now = to_repr(asked);
    const bool changed = !loop.has_changed || loop.changed != now;
    loop.changed = std::move(now);
    loop.has_changed = true;
    return Value(changed);
  }
  throw TemplateError("loop has no method " + name);
}

Value Evaluator::call_macro(const Macro& macro, const CallArguments& arguments) {
  const auto& parameters = macro.code->parameters;
  if (arguments.positional.size() > parameters.size()) {
    throw TemplateError("too many arguments for the macro " + macro.code->name);
  }
  // The body sees what was in scope where the macro was defined.
  const size_t visible = std::min(macro.scopes, scopes_.size());
  const auto first = scopes_.begin() + static_cast<std::ptrdiff_t>(visible);
  std::vector<Dict> hidden(std::make_move_iterator(first), std::make_move_iterator(scopes_.end()));
  scopes_.resize(visible);
  scopes_.emplace_back();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, otherwise] = parameters[i];
    const Value* given = arguments.get(i, name);
    Value value = given != nullptr       ? *given
                  : otherwise != nullptr ? evaluate(*otherwise)
                                         : Value(Undefined{name});
    assign(scope(), name, std::move(value));
  }
  std::string text = capture(macro.code->body);
  scopes_.resize(visible);
  std::move(hidden.begin(), hidden.end(), std::back_inserter(scopes_));
  return Value::text(std::move(text));
}

Value Evaluator::call_function(const std::string& name, const CallArguments& arguments) {
  if (name == "range") return range(arguments);
  if (name == "namespace") return make_namespace(arguments);
  if (name == "dict") return Value::dict(arguments.named);
  if (name == "raise_exception") throw TemplateRefusal(arguments.text(0, "message", ""));
  return format_now(arguments);
}

Value Evaluator::make_namespace(const CallArguments& arguments) {
  auto space = std::make_shared<Namespace>();
  if (!arguments.positional.empty()) {
    const Dict* dict = arguments.positional[0].as_dict();
    if (dict == nullptr) throw TemplateError("namespace needs a dict or names");
    space->items = *dict;
  }
  for (const auto& [key, value] : arguments.named) assign(space->items, key, value);
  budget_.make(sizeof(Namespace) + space->items.size() * sizeof(Value));
  namespaces_.push_back(space);
  return Value(std::move(space));
}

Value Evaluator::range(const CallArguments& arguments) {
  const bool one = arguments.positional.size() == 1;
  const int64_t start = one ? 0 : arguments.integer(0, "start", 0);
  const int64_t stop = arguments.integer(one ? 0 : 1, "stop", 0);
  const int64_t step = arguments.integer(2, "step", 1);
  if (step == 0) throw TemplateError("a range's step cannot be zero");
  List items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) throw TemplateError("a range is too long");
    items.push_back(Value(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  budget_.make(items.size() * sizeof(Value));
  return Value::list(std::move(items));
}

Value Evaluator::format_now(const CallArguments& arguments) {
  const std::string format = arguments.text(0, "format", "");
  if (format.empty()) return Value::text("");
  if (format.size() > kMaxTimeFormat) throw TemplateError("a time format is too long");
  const std::time_t seconds = now_;
  std::tm parts{};
  if (gmtime_r(&seconds, &parts) == nullptr) throw TemplateError("the time is out of range");
  char text[16 * kMaxTimeFormat];
  return Value::text(std::string(text, std::strftime(text, sizeof text, format.c_str(), &parts)));
}

}  // namespace limpet::engine::jinja
