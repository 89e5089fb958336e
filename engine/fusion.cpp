// Rewrites of a Graph that save passes over memory and change no bit of a result.
//
// Each pass is one sweep over the nodes: a rewrite at a node takes away nodes elsewhere, but makes
// no earlier one fusible. Nodes keep their places until the end, so that who makes and who reads a
// value can be looked up; the whole is linear in the size of the graph.
#include <algorithm>
#include <stdexcept>

#include "engine/graph.h"

namespace limpet::engine {
namespace {

constexpr size_t kNone = static_cast<size_t>(-1);

class Fusion {
 public:
  explicit Fusion(Graph& graph) : g_(graph), gone_(graph.nodes.size(), false) {
    for (size_t i = 0; i < g_.nodes.size(); ++i) link(i);
  }

  void run() {
    everywhere(&Fusion::fuse_gate);
    everywhere(&Fusion::fuse_stack);
    everywhere(&Fusion::fuse_residual);
    size_t i = 0;
    std::erase_if(g_.nodes, [&](const GraphNode&) { return gone_[i++]; });
  }

 private:
  void everywhere(void (Fusion::*rewrite)(size_t at)) {
    for (size_t i = 0; i < g_.nodes.size(); ++i) {
      if (!gone_[i]) (this->*rewrite)(i);
    }
  }

  // Who makes a value, and the nodes that read it, one entry for each operand.
  struct Uses {
    size_t producer = kNone;
    std::vector<size_t> readers;
  };
  Uses& uses(ValueId value) {
    const auto i = static_cast<size_t>(value);
    if (i >= uses_.size()) uses_.resize(std::max(g_.values.size(), i + 1));
    return uses_[i];
  }
  void link(size_t at) {
    for (const ValueId v : g_.nodes[at].inputs) uses(v).readers.push_back(at);
    for (const ValueId v : g_.nodes[at].outputs) uses(v).producer = at;
  }
  void unlink(size_t at) {
    for (const ValueId v : g_.nodes[at].inputs) std::erase(uses(v).readers, at);
    for (const ValueId v : g_.nodes[at].outputs) {
      if (uses(v).producer == at) uses(v).producer = kNone;
    }
  }
  void remove(size_t at) {
    unlink(at);
    gone_[at] = true;
  }
  void replace(size_t at, GraphNode node) {
    unlink(at);
    g_.nodes[at] = std::move(node);
    link(at);
  }
  template <typename Op>
  Op* as(size_t at) {
    return std::get_if<Op>(&g_.nodes[at].op);
  }

  // A Linear whose result `value` is read once, by the caller, and may therefore vanish.
  size_t private_linear(ValueId value) {
    if (g_.at(value).kind != ValueKind::temporary || uses(value).readers.size() != 1) return kNone;
    const size_t i = uses(value).producer;
    return i != kNone && as<ops::Linear>(i) != nullptr ? i : kNone;
  }

  // One weight of several, stacked by rows (vectors: end to end).
  ValueId join(const std::vector<ValueId>& weights, Layout layout) {
    GraphValue joined = g_.at(weights.front());
    for (size_t i = 1; i < weights.size(); ++i) {
      const GraphValue& w = g_.at(weights[i]);
      joined.name += " + " + w.name;
      joined.shape.dim[0] += w.shape[0];
      joined.parts.insert(joined.parts.end(), w.parts.begin(), w.parts.end());
    }
    joined.layout = layout;
    return g_.add(std::move(joined));
  }

  void fuse_gate(size_t at);
  void fuse_residual(size_t at);
  void fuse_stack(size_t at);
  bool sliceable(ValueId value);
  std::vector<size_t> stackable(size_t at);

  Graph& g_;
  std::vector<bool> gone_;  // of each node: removed
  std::vector<Uses> uses_;  // of each value
};

void Fusion::fuse_gate(size_t at) {
  if (as<ops::SiluMul>(at) == nullptr) return;
  GraphNode node = g_.nodes[at];
  const size_t gate = private_linear(node.inputs[0]), up = private_linear(node.inputs[1]);
  if (gate == kNone || up == kNone || gate == up) return;
  const GraphNode &a = g_.nodes[gate], &b = g_.nodes[up];
  const auto plain = ops::Op(ops::Linear{});
  if (a.op != plain || b.op != plain || a.inputs[0] != b.inputs[0]) return;
  node.op = ops::GatedLinear{};
  node.inputs = {a.inputs[0], join({a.inputs[1], b.inputs[1]}, Layout::gated)};
  remove(gate);
  remove(up);
  replace(at, std::move(node));
}

void Fusion::fuse_residual(size_t at) {
  if (as<ops::Add>(at) == nullptr) return;
  const GraphNode& add = g_.nodes[at];
  for (const size_t side : {size_t{0}, size_t{1}}) {
    const size_t i = private_linear(add.inputs[side]);
    if (i == kNone || as<ops::Linear>(i)->residual) continue;
    GraphNode linear = g_.nodes[i];
    std::get<ops::Linear>(linear.op).residual = true;
    linear.inputs.push_back(add.inputs[1 - side]);
    linear.outputs = add.outputs;
    linear.count = add.count;
    remove(i);
    replace(at, std::move(linear));  // where the other operand is there for sure
    return;
  }
}

// Whether all that read the value can read it as a slice of columns.
bool Fusion::sliceable(ValueId value) {
  const auto& readers = uses(value).readers;
  if (g_.at(value).kind != ValueKind::temporary || readers.empty()) return false;
  return std::ranges::all_of(readers, [&](size_t i) {
    return as<ops::RopeAppend>(i) != nullptr || as<ops::RmsNorm>(i) != nullptr;
  });
}

// This Linear and the later ones of the same kind and input whose results may be slices.
std::vector<size_t> Fusion::stackable(size_t at) {
  const GraphNode& first = g_.nodes[at];
  std::vector<size_t> same = {at}, readers = uses(first.inputs[0]).readers;
  std::ranges::sort(readers);
  for (const size_t i : readers) {
    const GraphNode& n = g_.nodes[i];
    if (i > same.back() && n.op == first.op && n.inputs[0] == first.inputs[0] &&
        n.count == first.count && sliceable(n.outputs[0])) {
      same.push_back(i);
    }
  }
  return same;
}

void Fusion::fuse_stack(size_t at) {
  const auto* linear = as<ops::Linear>(at);
  if (linear == nullptr || linear->residual || !sliceable(g_.nodes[at].outputs[0])) return;
  const std::vector<size_t> same = stackable(at);
  if (same.size() < 2) return;
  std::vector<ValueId> weights, biases;
  int64_t width = 0;
  for (const size_t i : same) {
    weights.push_back(g_.nodes[i].inputs[1]);
    if (linear->bias) biases.push_back(g_.nodes[i].inputs[2]);
    width += g_.at(g_.nodes[i].outputs[0]).shape.cols();
  }
  GraphNode joined = g_.nodes[at];
  GraphValue wide = g_.at(joined.outputs[0]);
  wide.name += "_stacked";
  wide.shape.dim[static_cast<size_t>(wide.shape.rank - 1)] = width;
  joined.inputs = {joined.inputs[0], join(weights, Layout::linear)};
  if (!biases.empty()) joined.inputs.push_back(join(biases, Layout::dense));
  joined.outputs = {g_.add(std::move(wide))};
  int64_t column = 0;
  for (const size_t i : same) {
    GraphValue& slice = g_.at(g_.nodes[i].outputs[0]);
    slice.slice_of = joined.outputs[0];
    slice.slice_column = column;
    column += slice.shape.cols();
    if (i != at) remove(i);
  }
  replace(at, std::move(joined));
}

}  // namespace

void fuse(Graph& graph) { Fusion(graph).run(); }

}  // namespace limpet::engine
