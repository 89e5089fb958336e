#include "engine/weight_store.h"

#include <stdexcept>

namespace limpet::engine {
namespace {

DType dtype_of(StoredType type) {
  switch (type) {
    case StoredType::f32: return DType::f32;
    case StoredType::f16: return DType::f16;
    case StoredType::bf16: return DType::bf16;
    default: throw std::logic_error("weight store: a tensor that is not of floats");
  }
}

WeightSource source_of(const WeightData& d) {
  const StoredTensor& t = d.tensor;
  const bool matrix = t.shape.size() == 2;
  // Pages of a file that have been packed are not held: the model is in memory once.
  return {t.data.data(), dtype_of(t.type), matrix ? t.shape[0] : 1, t.shape.back(),
          d.owned == nullptr ? release_pages : nullptr};
}

}  // namespace

void WeightStore::pack(const GraphValue& value, const Checkpoint& checkpoint) {
  const Key key{value.name, value.layout};
  if (buffers_.contains(key)) return;
  std::vector<WeightData> data;
  for (const hir::WeightDecl& part : value.parts) data.push_back(checkpoint.get(part));
  std::vector<WeightSource> sources;
  std::vector<float> joined = value.constant;
  if (value.shape.rank == 2) {
    for (const WeightData& d : data) sources.push_back(source_of(d));
  } else {
    // Vectors are joined end to end here: a dense weight has one source.
    for (const WeightData& d : data) {
      const auto part = to_float(d.tensor);
      joined.insert(joined.end(), part.begin(), part.end());
    }
    sources.push_back({joined.data(), DType::f32, 1, std::ssize(joined)});
  }
  auto buffer = backend_.pack(value.layout, value.dtype, sources);
  for (const WeightData& d : data) {
    if (d.owned == nullptr) release_pages(d.tensor.data.data(), d.tensor.data.size());
  }
  bytes_ += buffer->bytes();
  buffers_.emplace(key, std::move(buffer));
}

std::vector<hir::WeightDecl> WeightStore::needed(const Graph& graph) {
  std::vector<hir::WeightDecl> all;
  for (const GraphNode& node : graph.nodes) {
    for (const ValueId v : node.inputs) {
      const GraphValue& value = graph.at(v);
      if (value.kind == ValueKind::weight) {
        all.insert(all.end(), value.parts.begin(), value.parts.end());
      }
    }
  }
  return all;
}

void WeightStore::load(const Graph& graph, const Checkpoint& checkpoint) {
  for (const GraphNode& node : graph.nodes) {
    for (const ValueId v : node.inputs) {
      if (graph.at(v).kind == ValueKind::weight) pack(graph.at(v), checkpoint);
    }
  }
}

void WeightStore::keep(const std::vector<hir::WeightDecl>& decls, DType matrices,
                       const Checkpoint& checkpoint) {
  for (const hir::WeightDecl& decl : decls) {
    GraphValue value{.name = decl.name, .kind = ValueKind::weight, .parts = {decl}};
    if (decl.shape.size() == 2) {
      value.dtype = matrices;
      value.layout = Layout::linear;
      value.shape = {decl.shape[0], decl.shape[1]};
    } else {
      value.shape = {decl.shape[0]};
    }
    pack(value, checkpoint);
  }
}

void WeightStore::attach(const Program& program, Executable& executable) const {
  for (size_t i = 0; i < program.values.size(); ++i) {
    const ProgramValue& value = program.values[i];
    if (value.kind != ValueKind::weight) continue;
    const auto it = buffers_.find({value.name, value.layout});
    if (it == buffers_.end()) throw std::logic_error("no weight '" + value.name + "' was loaded");
    executable.bind(static_cast<ValueId>(i), *it->second);
  }
}

}  // namespace limpet::engine
