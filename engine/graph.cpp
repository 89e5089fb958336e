#include "engine/graph.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <utility>

namespace limpet::engine {
namespace {

void check(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("lowering a module: ") + what);
}

class Lowering {
 public:
  Lowering(const hir::Module& module, const LowerOptions& options) : m_(module), o_(options) {
    of_value_.resize(m_.values.size(), -1);
    wanted_.resize(m_.values.size(), false);
    declare_inputs();
    find_attention_weights();
  }

  Graph run() {
    for (const hir::Node& node : m_.nodes) {
      std::visit([&](const auto& operation) { lower(node, operation); }, node.operation);
    }
    for (size_t i = 0; i < m_.outputs.size(); ++i) mark_output(i);
    if (o_.draw_slots > 0) draw();
    return std::move(g_);
  }

 private:
  void declare_inputs() {
    const auto input = [&](const char* name, Shape shape) {
      return g_.add({.name = name, .dtype = DType::i32, .shape = shape, .kind = ValueKind::input});
    };
    const int64_t sequences = std::min(m_.bounds.rows, o_.max_sequences);
    g_.name = "rows " + std::to_string(m_.bounds.rows) + ", past " + std::to_string(m_.bounds.past);
    const int64_t draws = o_.draw_slots > 0 ? 1 : 0;
    g_.counts = input("counts", {kCountOutputs + std::ssize(m_.outputs) + draws});
    token_ids_ = input("token_ids", {m_.bounds.rows});
    positions_ = input("positions", {m_.bounds.rows});
    row_sequence_ = input("row_sequence", {m_.bounds.rows});
    page_table_ = input("page_table", {sequences, pages_of(m_.bounds, o_.page_tokens)});
    wanted_rows_ = input("wanted_rows", {m_.bounds.wanted});
    pool_ = g_.add({.name = "kv_pool", .dtype = o_.kv,
                    .shape = {o_.pages, o_.layers, 2, o_.kv_heads, o_.page_tokens, o_.head_dim},
                    .kind = ValueKind::handle});
  }

  // The weights of projections that attention reads, as they are or through a norm.
  void find_attention_weights() {
    std::vector<bool> read(m_.values.size(), false);
    for (size_t i = m_.nodes.size(); i-- > 0;) {
      const hir::Node& n = m_.nodes[i];
      const bool attend = std::holds_alternative<hir::Attend>(n.operation);
      const bool norm = std::holds_alternative<hir::Norm>(n.operation);
      const bool wanted = read[static_cast<size_t>(n.output)];
      if (attend || (norm && wanted)) {
        for (const hir::Value v : n.inputs) read[static_cast<size_t>(v)] = true;
      }
      const auto* project = std::get_if<hir::Project>(&n.operation);
      if (project != nullptr && wanted) attention_weights_.insert(project->weight);
    }
  }

  ValueId weight(hir::Weight id, Layout layout) {
    const auto [it, added] = weights_.try_emplace({id, layout}, -1);
    if (!added) return it->second;
    const hir::WeightDecl& decl = m_.weights.at(static_cast<size_t>(id));
    GraphValue v{.name = decl.name, .kind = ValueKind::weight, .layout = layout, .parts = {decl}};
    if (decl.shape.size() == 2) {
      v.dtype = attention_weights_.contains(id) ? o_.attention_weights : o_.weights;
      if (v.dtype == DType::i8 && layout == Layout::dense) v.dtype = DType::bf16;
      v.shape = {decl.shape[0], decl.shape[1]};
    } else {
      v.shape = {decl.shape[0]};
    }
    return it->second = g_.add(std::move(v));
  }

  // A table that is a head's weight too is kept once, in the head's layout.
  Layout table_layout(hir::Weight table) const {
    for (const hir::Node& node : m_.nodes) {
      const auto* p = std::get_if<hir::Project>(&node.operation);
      if (p != nullptr && p->weight == table) return Layout::linear;
    }
    return Layout::dense;
  }

  ValueId rope_table() {
    if (rope_table_ >= 0) return rope_table_;
    const int64_t n = std::ssize(m_.rope_frequencies);
    check(n > 0, "attention without rotary frequencies");
    const ValueId frequencies = g_.add({.name = "rope_frequencies", .shape = {n},
                                        .kind = ValueKind::weight,
                                        .constant = m_.rope_frequencies});
    rope_table_ = g_.add({.name = "rope_table", .shape = {m_.bounds.rows, 2 * n}});
    const hir::RopeGrowth& g = m_.rope_growth;
    const ops::RopeTable op{.growth = {g.theta, g.factor, g.trained, g.least}};
    g_.nodes.push_back({op, {positions_, frequencies}, {rope_table_}, kCountRows});
    return rope_table_;
  }

  ValueId in(const hir::Node& node, size_t i) const {
    const ValueId v = of_value_[static_cast<size_t>(node.inputs[i])];
    check(v >= 0, "a value is read before it is made");
    return v;
  }
  // The node's result, [rows or wanted rows, its width].
  ValueId out(const hir::Node& node, bool wanted) {
    const auto index = static_cast<size_t>(node.output);
    const int64_t rows = wanted ? m_.bounds.wanted : m_.bounds.rows;
    wanted_[index] = wanted;
    return of_value_[index] = g_.add({.name = "t" + std::to_string(index),
                                      .shape = {rows, m_.values[index]}});
  }
  void emit(const hir::Node& node, ops::Op op, std::vector<ValueId> inputs) {
    bool wanted = std::holds_alternative<hir::Select>(node.operation);
    for (const hir::Value v : node.inputs) wanted = wanted || wanted_[static_cast<size_t>(v)];
    const ValueId result = out(node, wanted);
    g_.nodes.push_back({op, std::move(inputs), {result}, wanted ? kCountWanted : kCountRows});
  }

  void lower(const hir::Node& node, const hir::Embed& e) {
    emit(node, ops::Embedding{}, {token_ids_, weight(e.table, table_layout(e.table))});
  }
  void lower(const hir::Node& node, const hir::Norm& n) {
    emit(node, ops::RmsNorm{.eps = n.eps, .heads = std::max<int64_t>(n.heads, 1)},
         {in(node, 0), weight(n.weight, Layout::dense)});
  }
  void lower(const hir::Node& node, const hir::Project& p) {
    std::vector<ValueId> inputs = {in(node, 0), weight(p.weight, Layout::linear)};
    if (p.bias) inputs.push_back(weight(*p.bias, Layout::dense));
    const bool exact = o_.exact_attention_input && attention_weights_.contains(p.weight);
    emit(node, ops::Linear{.bias = p.bias.has_value(), .exact = exact}, std::move(inputs));
  }
  void lower(const hir::Node& node, const hir::Attend& a) {
    check(a.layer < o_.layers && a.kv_heads == o_.kv_heads && a.head_dim == o_.head_dim,
          "attention that does not fit the KV pool");
    const ValueId table = rope_table(), q = in(node, 0);
    const ValueId rotated = g_.add({.name = g_.at(q).name + "_rotated", .shape = g_.at(q).shape});
    g_.nodes.push_back({ops::RopeAppend{.layer = a.layer},
                        {q, in(node, 1), in(node, 2), table, positions_, row_sequence_,
                         page_table_, pool_},
                        {rotated}, kCountRows});
    emit(node, ops::PagedAttention{.layer = a.layer, .scale = a.scale, .window = a.window},
         {rotated, positions_, row_sequence_, page_table_, pool_});
  }
  void lower(const hir::Node& node, const hir::Gate&) {
    emit(node, ops::SiluMul{}, {in(node, 0), in(node, 1)});
  }
  void lower(const hir::Node& node, const hir::Sum&) {
    emit(node, ops::Add{}, {in(node, 0), in(node, 1)});
  }
  void lower(const hir::Node& node, const hir::Select&) {
    emit(node, ops::GatherRows{}, {in(node, 0), wanted_rows_});
  }

  void mark_output(size_t i) {
    const hir::Output& output = m_.outputs[i];
    const ValueId id = of_value_[static_cast<size_t>(output.value)];
    GraphValue& value = g_.at(id);
    check(value.kind == ValueKind::temporary, "a value is an output twice");
    value.kind = ValueKind::output;
    value.name = output.name;
    if (g_.uses(id) > 0) return;
    for (GraphNode& node : g_.nodes) {
      if (node.outputs[0] == id) node.count = kCountOutputs + static_cast<int32_t>(i);
    }
  }

  void draw() {
    const auto output = std::ranges::find(m_.outputs, "logits", &hir::Output::name);
    check(output != m_.outputs.end(), "nothing to draw from");
    const ValueId logits = of_value_[static_cast<size_t>(output->value)];
    const int64_t rows = g_.at(logits).shape.rows(), vocab = g_.at(logits).shape.cols();
    const auto value = [&](const char* name, Shape shape, ValueKind kind) {
      return g_.add({.name = name, .dtype = DType::i32, .shape = shape, .kind = kind});
    };
    const ValueId draws = value("draws", {rows, ops::kDrawWords}, ValueKind::input);
    const ValueId context =
        value("draw_context", {o_.draw_slots, (vocab + 31) / 32}, ValueKind::input);
    const ValueId drawn = value("drawn", {rows, ops::kDrawnWords}, ValueKind::output);
    g_.nodes.push_back({ops::Sample{}, {logits, draws, context}, {drawn},
                        kCountOutputs + static_cast<int32_t>(m_.outputs.size())});
  }

  const hir::Module& m_;
  const LowerOptions& o_;
  Graph g_;
  std::vector<ValueId> of_value_;
  std::vector<bool> wanted_;
  std::set<hir::Weight> attention_weights_;
  std::map<std::pair<hir::Weight, Layout>, ValueId> weights_;
  ValueId token_ids_ = -1, positions_ = -1, row_sequence_ = -1, page_table_ = -1;
  ValueId wanted_rows_ = -1, pool_ = -1, rope_table_ = -1;
};

}  // namespace

ValueId Graph::add(GraphValue value) {
  values.push_back(std::move(value));
  return static_cast<ValueId>(values.size() - 1);
}

int64_t Graph::uses(ValueId id) const {
  int64_t n = 0;
  for (const GraphNode& node : nodes) n += std::ranges::count(node.inputs, id);
  return n;
}

int64_t pages_of(const hir::Bounds& bounds, int64_t page_tokens) {
  return (bounds.past + bounds.rows + page_tokens - 1) / page_tokens;
}

Graph lower_module(const hir::Module& module, const LowerOptions& options) {
  return Lowering(module, options).run();
}

}  // namespace limpet::engine
