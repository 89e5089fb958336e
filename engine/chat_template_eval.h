// Runs a parsed chat template.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat_template_ast.h"
#include "engine/chat_template_operations.h"

namespace limpet::engine::jinja {

struct LoopState {
  List items;  // those that the loop's filter has let through so far; without one: all
  size_t index = 0;
  // A filter is asked as late as Jinja asks it: a body may change what it depends on.
  const Statement* filtered = nullptr;  // the loop, when it has a filter
  List waiting;                         // items that it has not been asked about, the last first
  size_t scopes = 0;                    // how many were open around the loop
  std::string changed;  // what loop.changed was last asked about, written out
  bool has_changed = false;
};

class Evaluator {
 public:
  static constexpr size_t kMaxOutput = 32u << 20;  // bytes

  // `now`: seconds since 1970, for strftime_now.
  Evaluator(Dict variables, int64_t now);
  ~Evaluator();

  // The rendered text. Throws TemplateError: what the template raises, what it asks for in vain,
  // and when it exceeds its budget.
  std::string run(const Block& block);

 private:
  enum class Flow : uint8_t { normal, stop, skip };
  class Deeper;

  Flow execute(const Block& block);
  Flow execute(const Statement& statement);
  Flow execute_condition(const Statement& statement);
  Flow execute_loop(const Statement& statement);
  void execute_set(const Statement& statement);
  void set_target(const Statement::Target& target, Value value);
  void set_targets(const std::vector<Statement::Target>& targets, const Value& value);
  std::string capture(const Block& block);
  Value through_filters(const Expression& filters, std::string text);
  void emit(std::string_view text);

  Value evaluate(const Expression& e);
  Value evaluate_chain(const Expression& e);
  Value evaluate_binary(const Expression& e);
  Value evaluate_dict(const Expression& e);
  List evaluate_all(const std::vector<ExpressionPointer>& expressions);
  CallArguments evaluate_arguments(const Arguments& arguments);

  Value attribute(const Value& object, const std::string& name);
  Value loop_attribute(LoopState& loop, const std::string& name);
  // Whether the loop has this many items more than `index`; asks its filter as far as needed.
  bool reaches(LoopState& loop, size_t index);
  Value call(const Expression& e);
  Value call_loop(LoopState& loop, const std::string& name, const CallArguments& arguments);
  Value call_macro(const Macro& macro, const CallArguments& arguments);
  Value call_function(const std::string& name, const CallArguments& arguments);
  Value make_namespace(const CallArguments& arguments);
  Value range(const CallArguments& arguments);
  Value format_now(const CallArguments& arguments);

  const Value* lookup(std::string_view name);
  static bool is_function(std::string_view name);
  Dict& scope() { return scopes_.back(); }

  Budget budget_;
  std::vector<Dict> scopes_;
  std::string* output_ = nullptr;
  std::vector<std::shared_ptr<Namespace>> namespaces_;  // cleared at the end: they may hold cycles
  int64_t now_;
  int depth_ = 0;
  int line_ = 0;  // of the statement that runs
};

}  // namespace limpet::engine::jinja
