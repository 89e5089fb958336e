#include "engine/chat_template_eval.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

namespace limpet::engine::jinja {

class Evaluator::Deeper {
 public:
  explicit Deeper(Evaluator& evaluator) : evaluator_(evaluator) {
    if (++evaluator_.depth_ > Budget::kDepth) {
      --evaluator_.depth_;
      throw TemplateError("the template calls itself too deeply");
    }
    evaluator_.budget_.step();
  }
  ~Deeper() { --evaluator_.depth_; }
  Deeper(const Deeper&) = delete;

 private:
  Evaluator& evaluator_;
};

Evaluator::Evaluator(Dict variables, int64_t now) : now_(now) {
  scopes_.push_back(std::move(variables));
}

Evaluator::~Evaluator() {
  for (const auto& space : namespaces_) space->items.clear();
}

std::string Evaluator::run(const Block& block) {
  try {
    return capture(block);
  } catch (const TemplateRefusal&) {
    throw;
  } catch (const TemplateError& e) {
    throw TemplateError("line " + std::to_string(line_) + ": " + e.what());
  }
}

// ---- Statements --------------------------------------------------------------------------------

void Evaluator::emit(std::string_view text) {
  budget_.make(text.size());
  if (output_->size() + text.size() > kMaxOutput) {
    throw TemplateError("the template makes too much text");
  }
  output_->append(text);
}

std::string Evaluator::capture(const Block& block) {
  std::string text;
  std::string* const outer = std::exchange(output_, &text);
  try {
    execute(block);
  } catch (...) {
    output_ = outer;
    throw;
  }
  output_ = outer;
  return text;
}

Evaluator::Flow Evaluator::execute(const Block& block) {
  for (const Statement& statement : block) {
    const Flow flow = execute(statement);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Evaluator::Flow Evaluator::execute(const Statement& statement) {
  using Kind = Statement::Kind;
  const Deeper deeper(*this);
  line_ = statement.line;
  switch (statement.kind) {
    case Kind::text:
      emit(statement.text);
      break;
    case Kind::output: {
      const Value value = evaluate(*statement.expression);
      if (const std::string* text = value.as_text()) {
        emit(*text);
      } else {
        budget_.make(value.size());
        emit(to_text(value));
      }
      break;
    }
    case Kind::condition:
      return execute_condition(statement);
    case Kind::loop:
      return execute_loop(statement);
    case Kind::set:
    case Kind::set_block:
      execute_set(statement);
      break;
    case Kind::filter_block:
      emit(to_text(through_filters(*statement.expression, capture(statement.body))));
      break;
    case Kind::macro:
      assign(scope(), statement.macro->name, Value(Macro{statement.macro.get(), scopes_.size()}));
      break;
    case Kind::block:
      return execute(statement.body);
    case Kind::stop:
      return Flow::stop;
    case Kind::skip:
      return Flow::skip;
  }
  return Flow::normal;
}

Evaluator::Flow Evaluator::execute_condition(const Statement& statement) {
  for (const auto& [test, body] : statement.branches) {
    if (test == nullptr || truth(evaluate(*test))) return execute(body);
  }
  return Flow::normal;
}

Evaluator::Flow Evaluator::execute_loop(const Statement& statement) {
  const auto loop = std::make_shared<LoopState>();
  loop->items = items_of(budget_, evaluate(*statement.expression));
  const Value loop_value = Value::loop(loop, loop->items);
  if (statement.filter != nullptr) {
    loop->filtered = &statement;
    loop->scopes = scopes_.size();
    loop->waiting.swap(loop->items);
    std::reverse(loop->waiting.begin(), loop->waiting.end());
  }
  if (!reaches(*loop, 0)) return execute(statement.otherwise);
  for (; reaches(*loop, loop->index); ++loop->index) {
    budget_.step();
    scopes_.emplace_back();  // what a body sets, its iteration alone sees
    assign(scope(), "loop", loop_value);
    set_targets(statement.targets, loop->items[loop->index]);
    const Flow flow = execute(statement.body);
    scopes_.pop_back();
    if (flow == Flow::stop) break;
  }
  return Flow::normal;
}

bool Evaluator::reaches(LoopState& loop, size_t index) {
  while (loop.items.size() <= index && !loop.waiting.empty()) {
    Value item = std::move(loop.waiting.back());
    loop.waiting.pop_back();
    // The filter sees what was there around the loop, and the item. A macro may have fewer scopes.
    const size_t around = std::min(loop.scopes, scopes_.size());
    const auto first = scopes_.begin() + static_cast<std::ptrdiff_t>(around);
    std::vector<Dict> inner(std::make_move_iterator(first), std::make_move_iterator(scopes_.end()));
    scopes_.resize(around);
    scopes_.emplace_back();
    set_targets(loop.filtered->targets, item);
    const bool keep = truth(evaluate(*loop.filtered->filter));
    scopes_.resize(around);
    for (Dict& scope : inner) scopes_.push_back(std::move(scope));
    if (keep) loop.items.push_back(std::move(item));
  }
  return loop.items.size() > index;
}

void Evaluator::execute_set(const Statement& statement) {
  if (statement.kind == Statement::Kind::set) {
    set_targets(statement.targets, evaluate(*statement.expression));
    return;
  }
  scopes_.emplace_back();
  std::string text = capture(statement.body);
  scopes_.pop_back();
  set_target(statement.targets[0], through_filters(*statement.expression, std::move(text)));
}

Value Evaluator::through_filters(const Expression& filters, std::string text) {
  scopes_.push_back({{kBlockText, Value::text(std::move(text))}});
  Value value = evaluate(filters);
  scopes_.pop_back();
  return value;
}

void Evaluator::set_target(const Statement::Target& target, Value value) {
  if (target.attribute.empty()) {
    assign(scope(), target.name, std::move(value));
    return;
  }
  const Value* object = lookup(target.name);
  const auto* space = object == nullptr ? nullptr : object->as<std::shared_ptr<Namespace>>();
  if (space == nullptr) {
    throw TemplateError(target.name + " is no namespace, so " + target.attribute +
                        " cannot be set on it");
  }
  assign((*space)->items, target.attribute, std::move(value));
}

void Evaluator::set_targets(const std::vector<Statement::Target>& targets, const Value& value) {
  if (targets.size() == 1) {
    set_target(targets[0], value);
    return;
  }
  const List items = items_of(budget_, value);
  if (items.size() != targets.size()) {
    throw TemplateError("cannot give " + std::to_string(items.size()) + " values to " +
                        std::to_string(targets.size()) + " names");
  }
  for (size_t i = 0; i < targets.size(); ++i) set_target(targets[i], items[i]);
}

// ---- Expressions -------------------------------------------------------------------------------

const Value* Evaluator::lookup(std::string_view name) {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    budget_.step(static_cast<int64_t>(scope->size() / 16));
    if (const Value* value = find(*scope, name)) return value;
  }
  return nullptr;
}

Value Evaluator::evaluate(const Expression& e) {
  using Kind = Expression::Kind;
  const Deeper deeper(*this);
  const auto part = [&](size_t i) { return evaluate(*e.operands[i]); };
  switch (e.kind) {
    case Kind::constant:
      return e.value;
    case Kind::name: {
      if (const Value* value = lookup(e.text)) return *value;
      return is_function(e.text) ? Value(Function{e.text}) : Value(Undefined{e.text});
    }
    case Kind::list:
    case Kind::tuple:
      return Value::list(evaluate_all(e.operands), e.kind == Kind::tuple);
    case Kind::dict:
      return evaluate_dict(e);
    case Kind::unary:
      if (e.text == "not") return Value(!truth(part(0)));
      return e.text == "-" ? negative(part(0)) : part(0);
    case Kind::binary:
      return evaluate_binary(e);
    case Kind::chain:
      return evaluate_chain(e);
    case Kind::conditional:
      if (truth(part(1))) return part(0);
      return e.operands.size() > 2 ? part(2) : Value(Undefined{"the value of an if without else"});
    case Kind::attribute:
      return attribute(part(0), e.text);
    case Kind::subscript: {
      const Value object = part(0), key = part(1);
      if (const std::string* name = key.as_text()) return attribute(object, *name);
      return item_of(budget_, object, key);
    }
    case Kind::slice: {
      const Value object = part(0);
      Value bounds[3];
      for (size_t i = 0; i < 3; ++i) {
        bounds[i] = e.operands[i + 1] == nullptr ? Value(None{}) : part(i + 1);
      }
      return slice_of(budget_, object, &bounds[0], &bounds[1], &bounds[2]);
    }
    case Kind::call:
      return call(e);
    case Kind::filter:
      return apply_filter(budget_, e.text, part(0), evaluate_arguments(e.arguments));
    case Kind::test:
      return Value(apply_test(budget_, e.text, part(0), evaluate_arguments(e.arguments)) !=
                   e.negated);
  }
  throw std::logic_error("an expression of no kind");
}

Value Evaluator::evaluate_binary(const Expression& e) {
  Value left = evaluate(*e.operands[0]);
  if (e.text == "and") return truth(left) ? evaluate(*e.operands[1]) : left;
  if (e.text == "or") return truth(left) ? left : evaluate(*e.operands[1]);
  return binary_operation(budget_, e.text, left, evaluate(*e.operands[1]));
}

Value Evaluator::evaluate_chain(const Expression& e) {
  Value left = evaluate(*e.operands[0]), holds;
  for (size_t i = 0; i < e.operators.size(); ++i) {
    Value right = evaluate(*e.operands[i + 1]);
    holds = binary_operation(budget_, e.operators[i], left, right);
    if (!truth(holds)) break;
    left = std::move(right);
  }
  return holds;
}

Value Evaluator::evaluate_dict(const Expression& e) {
  Dict items;
  for (size_t i = 0; i + 1 < e.operands.size(); i += 2) {
    const Value key = evaluate(*e.operands[i]);
    const std::string* name = key.as_text();
    if (name == nullptr) throw TemplateError("a dict's keys must be strings");
    budget_.make(name->size() + sizeof(Value));
    budget_.step(static_cast<int64_t>(items.size() / 16));
    assign(items, *name, evaluate(*e.operands[i + 1]));
  }
  return Value::dict(std::move(items));
}

List Evaluator::evaluate_all(const std::vector<ExpressionPointer>& expressions) {
  budget_.make(expressions.size() * sizeof(Value));
  List values;
  values.reserve(expressions.size());
  for (const auto& e : expressions) values.push_back(evaluate(*e));
  return values;
}

CallArguments Evaluator::evaluate_arguments(const Arguments& arguments) {
  CallArguments values;
  values.positional = evaluate_all(arguments.positional);
  for (const auto& [name, e] : arguments.named) assign(values.named, name, evaluate(*e));
  return values;
}

Value Evaluator::attribute(const Value& object, const std::string& name) {
  if (const auto* loop = object.as<std::shared_ptr<LoopState>>()) {
    return loop_attribute(**loop, name);
  }
  return attribute_of(budget_, object, name);
}

Value Evaluator::loop_attribute(LoopState& loop, const std::string& name) {
  const auto index = static_cast<int64_t>(loop.index);
  const auto size = [&] {
    reaches(loop, std::numeric_limits<size_t>::max() - 1);
    return static_cast<int64_t>(loop.items.size());
  };
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(size() - index);
  if (name == "revindex0") return Value(size() - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(!reaches(loop, loop.index + 1));
  if (name == "length") return Value(size());
  if (name == "depth") return Value(int64_t{1});
  if (name == "depth0") return Value(int64_t{0});
  if (name == "previtem" && index > 0) return loop.items[loop.index - 1];
  if (name == "nextitem" && reaches(loop, loop.index + 1)) return loop.items[loop.index + 1];
  return Value(Undefined{"loop." + name});
}

}  // namespace limpet::engine::jinja
