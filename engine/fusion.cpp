// Rewrites of a Graph that save passes over memory and change no bit of a result.
#include <algorithm>
#include <stdexcept>

#include "engine/graph.h"

namespace limpet::engine {
namespace {

constexpr size_t kNone = static_cast<size_t>(-1);

template <typename Op>
Op* as(GraphNode& node) {
  return std::get_if<Op>(&node.op);
}

size_t producer(const Graph& g, ValueId value) {
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    if (std::ranges::find(g.nodes[i].outputs, value) != g.nodes[i].outputs.end()) return i;
  }
  return kNone;
}

// A Linear whose result `value` is read once, by the caller, and may therefore vanish.
size_t private_linear(Graph& g, ValueId value) {
  if (g.at(value).kind != ValueKind::temporary || g.uses(value) != 1) return kNone;
  const size_t i = producer(g, value);
  return i != kNone && as<ops::Linear>(g.nodes[i]) != nullptr ? i : kNone;
}

void erase(Graph& g, std::vector<size_t> nodes) {
  std::ranges::sort(nodes, std::greater<>());
  for (const size_t i : nodes) g.nodes.erase(g.nodes.begin() + static_cast<int64_t>(i));
}

// One weight of several, stacked by rows (vectors: end to end).
ValueId join(Graph& g, const std::vector<ValueId>& weights, Layout layout) {
  GraphValue joined = g.at(weights.front());
  for (size_t i = 1; i < weights.size(); ++i) {
    const GraphValue& w = g.at(weights[i]);
    joined.name += " + " + w.name;
    joined.shape.dim[0] += w.shape[0];
    joined.parts.insert(joined.parts.end(), w.parts.begin(), w.parts.end());
  }
  joined.layout = layout;
  return g.add(std::move(joined));
}

bool fuse_gate(Graph& g, size_t at) {
  if (as<ops::SiluMul>(g.nodes[at]) == nullptr) return false;
  const size_t gate = private_linear(g, g.nodes[at].inputs[0]);
  const size_t up = private_linear(g, g.nodes[at].inputs[1]);
  if (gate == kNone || up == kNone || gate == up) return false;
  const GraphNode a = g.nodes[gate], b = g.nodes[up];
  const auto plain = ops::Op(ops::Linear{});
  if (a.op != plain || b.op != plain || a.inputs[0] != b.inputs[0]) return false;
  const ValueId weight = join(g, {a.inputs[1], b.inputs[1]}, Layout::gated);
  g.nodes[at].op = ops::GatedLinear{};
  g.nodes[at].inputs = {a.inputs[0], weight};
  erase(g, {gate, up});
  return true;
}

bool fuse_residual(Graph& g, size_t at) {
  if (as<ops::Add>(g.nodes[at]) == nullptr) return false;
  for (const size_t side : {size_t{0}, size_t{1}}) {
    const size_t i = private_linear(g, g.nodes[at].inputs[side]);
    if (i == kNone || as<ops::Linear>(g.nodes[i])->residual) continue;
    GraphNode linear = g.nodes[i];
    as<ops::Linear>(linear)->residual = true;
    linear.inputs.push_back(g.nodes[at].inputs[1 - side]);
    linear.outputs = g.nodes[at].outputs;
    linear.count = g.nodes[at].count;
    g.nodes[at] = std::move(linear);  // where the other operand is there for sure
    erase(g, {i});
    return true;
  }
  return false;
}

// Whether all that read the value can read it as a slice of columns.
bool sliceable(const Graph& g, ValueId value) {
  if (g.at(value).kind != ValueKind::temporary || g.uses(value) == 0) return false;
  return std::ranges::all_of(g.nodes, [&](const GraphNode& n) {
    return std::ranges::find(n.inputs, value) == n.inputs.end() ||
           std::holds_alternative<ops::RopeAppend>(n.op) ||
           std::holds_alternative<ops::RmsNorm>(n.op);
  });
}

bool fuse_stack(Graph& g, size_t at) {
  const GraphNode first = g.nodes[at];
  const auto* linear = std::get_if<ops::Linear>(&first.op);
  if (linear == nullptr || linear->residual || !sliceable(g, first.outputs[0])) return false;
  std::vector<size_t> same = {at};
  for (size_t i = at + 1; i < g.nodes.size(); ++i) {
    const GraphNode& n = g.nodes[i];
    if (n.op == first.op && n.inputs[0] == first.inputs[0] && n.count == first.count &&
        sliceable(g, n.outputs[0])) {
      same.push_back(i);
    }
  }
  if (same.size() < 2) return false;
  std::vector<ValueId> weights, biases;
  int64_t width = 0;
  for (const size_t i : same) {
    weights.push_back(g.nodes[i].inputs[1]);
    if (linear->bias) biases.push_back(g.nodes[i].inputs[2]);
    width += g.at(g.nodes[i].outputs[0]).shape.cols();
  }
  GraphNode joined = first;
  joined.inputs = {first.inputs[0], join(g, weights, Layout::linear)};
  if (linear->bias) joined.inputs.push_back(join(g, biases, Layout::dense));
  GraphValue wide = g.at(first.outputs[0]);
  wide.name += "_stacked";
  wide.shape.dim[static_cast<size_t>(wide.shape.rank - 1)] = width;
  joined.outputs = {g.add(std::move(wide))};
  int64_t column = 0;
  for (const size_t i : same) {
    GraphValue& slice = g.at(g.nodes[i].outputs[0]);
    slice.slice_of = joined.outputs[0];
    slice.slice_column = column;
    column += slice.shape.cols();
  }
  g.nodes[at] = std::move(joined);
  same.erase(same.begin());
  erase(g, same);
  return true;
}

template <typename Rewrite>
void everywhere(Graph& g, Rewrite rewrite) {
  for (size_t i = 0; i < g.nodes.size();) {
    // A rewrite may have removed nodes before this one: look at the same place once more.
    if (rewrite(g, i)) {
      i = 0;
    } else {
      ++i;
    }
  }
}

}  // namespace

void fuse(Graph& graph) {
  everywhere(graph, fuse_gate);
  everywhere(graph, fuse_stack);
  everywhere(graph, fuse_residual);
}

}  // namespace limpet::engine
