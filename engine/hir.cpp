#include "engine/hir.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace limpet::engine::hir {
namespace {

void check(bool ok, const std::string& what) {
  if (!ok) throw std::logic_error("module: " + what);
}

}  // namespace

int64_t Module::width(Value v) const {
  check(v >= 0 && v < std::ssize(values), "no such value");
  return values[static_cast<size_t>(v)];
}

Value Module::add(Operation operation, std::vector<Value> inputs, int64_t width) {
  const auto out = static_cast<Value>(values.size());
  values.push_back(width);
  nodes.push_back({std::move(operation), std::move(inputs), out});
  return out;
}

Weight Module::weight(std::string name, std::vector<int64_t> shape) {
  const auto it = std::ranges::find(weights, name, &WeightDecl::name);
  if (it != weights.end()) {
    check(it->shape == shape, "weight " + name + " with two shapes");
    return static_cast<Weight>(it - weights.begin());
  }
  weights.push_back({std::move(name), std::move(shape)});
  return static_cast<Weight>(weights.size() - 1);
}

Value Module::embed(Weight table) {
  const auto& shape = weights.at(static_cast<size_t>(table)).shape;
  check(shape.size() == 2, "an embedding table is [vocab, hidden]");
  return add(Embed{table}, {}, shape[1]);
}

Value Module::norm(Value x, Weight weight, double eps, int64_t heads) {
  const int64_t n = width(x);
  const auto& shape = weights.at(static_cast<size_t>(weight)).shape;
  check(shape.size() == 1 && shape[0] * std::max<int64_t>(heads, 1) == n, "norm of another width");
  return add(Norm{weight, static_cast<float>(eps), heads}, {x}, n);
}

Value Module::project(Value x, Weight weight, std::optional<Weight> bias) {
  const auto& shape = weights.at(static_cast<size_t>(weight)).shape;
  check(shape.size() == 2 && shape[1] == width(x), "projection of another width");
  if (bias) {
    check(weights.at(static_cast<size_t>(*bias)).shape == std::vector{shape[0]}, "bias width");
  }
  return add(Project{weight, bias}, {x}, shape[0]);
}

Value Module::attend(const Attend& a, Value q, Value k, Value v) {
  check(width(q) == a.heads * a.head_dim, "width of q");
  check(width(k) == a.kv_heads * a.head_dim && width(v) == width(k), "width of k, v");
  check(std::ssize(rope_frequencies) == a.head_dim / 2, "rotary frequencies for another head_dim");
  return add(a, {q, k, v}, a.heads * a.head_dim);
}

Value Module::gate(Value a, Value b) {
  check(width(a) == width(b), "gate of two widths");
  return add(Gate{}, {a, b}, width(a));
}

Value Module::sum(Value a, Value b) {
  check(width(a) == width(b), "sum of two widths");
  return add(Sum{}, {a, b}, width(a));
}

Value Module::select(Value x) { return add(Select{}, {x}, width(x)); }

void Module::output(std::string name, Value value) {
  check(width(value) > 0, "an empty output");
  outputs.push_back({std::move(name), value});
}

}  // namespace limpet::engine::hir
