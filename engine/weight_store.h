// The model's weights on the device, packed once and shared by all executables.
//
// Driven by the thread that drives the backend. What is missing or of another shape in the
// checkpoint throws std::runtime_error.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backends/backend.h"
#include "engine/checkpoint.h"
#include "engine/graph.h"

namespace limpet::engine {

class WeightStore {
 public:
  explicit WeightStore(Backend& backend) : backend_(backend) {}

  // The tensors of a checkpoint that load() packs.
  static std::vector<hir::WeightDecl> needed(const Graph& graph);
  // Packs every weight that the graph's nodes read.
  void load(const Graph& graph, const Checkpoint& checkpoint);
  // Packs weights that no program reads yet: matrices for Linear, the rest dense.
  void keep(const std::vector<hir::WeightDecl>& decls, DType matrices,
            const Checkpoint& checkpoint);
  // Binds a program's weights.
  void attach(const Program& program, Executable& executable) const;

  int64_t bytes() const { return bytes_; }

 private:
  using Key = std::pair<std::string, Layout>;
  void pack(const GraphValue& value, const Checkpoint& checkpoint);

  Backend& backend_;
  std::map<Key, std::unique_ptr<Buffer>> buffers_;
  int64_t bytes_ = 0;
};

}  // namespace limpet::engine
