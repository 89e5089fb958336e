// From a Graph to a flat Program: order, dead code, memory plan.
#include <algorithm>
#include <map>
#include <stdexcept>

#include "engine/graph.h"

namespace limpet::engine {
namespace {

constexpr int64_t kAlign = 64;

// The temporary whose memory a value stands in: itself, or what it is a slice of.
ValueId base_of(const Graph& g, ValueId id) {
  while (g.at(id).slice_of >= 0) id = g.at(id).slice_of;
  return id;
}

// Nodes that reach an output or update a handle, each after those that make what it reads.
// Nodes that share a handle keep their order.
std::vector<size_t> live_order(const Graph& g) {
  std::vector<bool> wanted(g.values.size(), false), live(g.nodes.size(), false);
  for (size_t v = 0; v < g.values.size(); ++v) {
    if (g.values[v].kind == ValueKind::output) wanted[v] = true;
  }
  for (size_t i = g.nodes.size(); i-- > 0;) {
    const GraphNode& n = g.nodes[i];
    const bool appends = std::holds_alternative<ops::RopeAppend>(n.op);
    live[i] = appends || std::ranges::any_of(n.outputs, [&](ValueId v) {
      return wanted[static_cast<size_t>(v)];
    });
    if (!live[i]) continue;
    for (const ValueId v : n.inputs) {
      wanted[static_cast<size_t>(v)] = true;
      wanted[static_cast<size_t>(base_of(g, v))] = true;
    }
  }
  std::vector<size_t> order;
  std::vector<bool> made(g.values.size(), false);
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    if (!live[i]) continue;
    for (const ValueId v : g.nodes[i].inputs) {
      const ValueId base = base_of(g, v);
      const ValueKind kind = g.at(base).kind;
      const bool computed = kind == ValueKind::temporary || kind == ValueKind::output;
      if (computed && !made[static_cast<size_t>(base)]) {
        throw std::logic_error("graph: '" + g.at(v).name + "' is read before it is made");
      }
    }
    for (const ValueId v : g.nodes[i].outputs) made[static_cast<size_t>(base_of(g, v))] = true;
    order.push_back(i);
  }
  return order;
}

// Memory that lives from one step to another; the smallest hole that fits is taken.
class Arena {
 public:
  int64_t take(int64_t bytes) {
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
    auto best = holes_.end();
    for (auto it = holes_.begin(); it != holes_.end(); ++it) {
      if (it->second >= bytes && (best == holes_.end() || it->second < best->second)) best = it;
    }
    if (best == holes_.end()) return grow(bytes);
    const auto [offset, size] = *best;
    holes_.erase(best);
    if (size > bytes) holes_.emplace(offset + bytes, size - bytes);
    return offset;
  }
  void give(int64_t offset, int64_t bytes) {
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
    auto it = holes_.emplace(offset, bytes).first;
    const auto next = std::next(it);
    if (next != holes_.end() && it->first + it->second == next->first) {
      it->second += next->second;
      holes_.erase(next);
    }
    if (it == holes_.begin()) return;
    const auto before = std::prev(it);
    if (before->first + before->second == it->first) {
      before->second += it->second;
      holes_.erase(it);
    }
  }
  int64_t bytes() const { return end_; }

 private:
  int64_t grow(int64_t bytes) {
    // A hole at the very end is used and made longer.
    int64_t offset = end_;
    if (!holes_.empty()) {
      const auto last = std::prev(holes_.end());
      if (last->first + last->second == end_) {
        offset = last->first;
        holes_.erase(last);
      }
    }
    end_ = offset + bytes;
    return offset;
  }
  std::map<int64_t, int64_t> holes_;  // offset -> bytes
  int64_t end_ = 0;
};

void plan_memory(const Graph& g, const std::vector<size_t>& order, Program& program) {
  std::vector<size_t> last(g.values.size(), 0);
  for (size_t at = 0; at < order.size(); ++at) {
    const GraphNode& n = g.nodes[order[at]];
    for (const ValueId v : n.inputs) last[static_cast<size_t>(base_of(g, v))] = at;
    for (const ValueId v : n.outputs) last[static_cast<size_t>(base_of(g, v))] = at;
  }
  Arena arena;
  std::vector<bool> placed(g.values.size(), false);
  std::vector<std::vector<ValueId>> dying(order.size());
  for (size_t at = 0; at < order.size(); ++at) {
    for (const ValueId v : g.nodes[order[at]].outputs) {
      const ValueId base = base_of(g, v);
      const auto index = static_cast<size_t>(base);
      if (g.at(base).kind != ValueKind::temporary || placed[index]) continue;
      placed[index] = true;
      program.values[index].offset = arena.take(program.values[index].bytes());
      dying[last[index]].push_back(base);
    }
    for (const ValueId v : dying[at]) {
      const ProgramValue& value = program.values[static_cast<size_t>(v)];
      arena.give(value.offset, value.bytes());
    }
  }
  program.arena_bytes = arena.bytes();
}

// A slice stands in its base, `slice_column` elements further, with the base's rows.
void place_slices(const Graph& g, Program& program) {
  for (size_t v = 0; v < g.values.size(); ++v) {
    if (g.values[v].slice_of < 0) continue;
    int64_t column = 0;
    ValueId id = static_cast<ValueId>(v);
    while (g.at(id).slice_of >= 0) {
      column += g.at(id).slice_column;
      id = g.at(id).slice_of;
    }
    const ProgramValue& base = program.values[static_cast<size_t>(id)];
    program.values[v].offset = base.offset + column * size_of(base.dtype);
    program.values[v].row_stride = base.shape.cols();
  }
}

// Values that no step uses any more, such as the weights that were joined, are dropped.
void drop_unused(Program& program) {
  std::vector<ValueId> number(program.values.size(), -1);
  const auto keep = [&](ValueId v) { number[static_cast<size_t>(v)] = 0; };
  for (const ProgramStep& s : program.steps) {
    std::ranges::for_each(s.inputs, keep);
    std::ranges::for_each(s.outputs, keep);
  }
  if (program.counts >= 0) keep(program.counts);
  std::vector<ProgramValue> kept;
  for (size_t v = 0; v < number.size(); ++v) {
    if (number[v] < 0) continue;
    number[v] = static_cast<ValueId>(kept.size());
    kept.push_back(std::move(program.values[v]));
  }
  program.values = std::move(kept);
  const auto renumber = [&](ValueId& v) { v = number[static_cast<size_t>(v)]; };
  for (ProgramStep& s : program.steps) {
    std::ranges::for_each(s.inputs, renumber);
    std::ranges::for_each(s.outputs, renumber);
  }
  if (program.counts >= 0) renumber(program.counts);
}

}  // namespace

Program lower(const Graph& graph) {
  Program program;
  program.name = graph.name;
  program.counts = graph.counts;
  for (const GraphValue& v : graph.values) {
    ProgramValue value;
    value.name = v.name;
    value.dtype = v.dtype;
    value.shape = v.shape;
    value.kind = v.kind;
    value.layout = v.layout;
    program.values.push_back(std::move(value));
  }
  const std::vector<size_t> order = live_order(graph);
  for (const size_t i : order) {
    const GraphNode& n = graph.nodes[i];
    program.steps.push_back({n.op, n.inputs, n.outputs, n.count});
  }
  plan_memory(graph, order, program);
  place_slices(graph, program);
  drop_unused(program);
  return program;
}

}  // namespace limpet::engine
