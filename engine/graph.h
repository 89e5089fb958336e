// Ops and the values between them: what a Module is lowered to, what fusion rewrites, and what
// `lower` makes a Program of. A Graph may also be written by hand.
//
// Nodes stand in an order that can be executed. Plain data; a malformed graph is a bug:
// std::logic_error.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "backends/program.h"
#include "engine/hir.h"

namespace limpet::engine {

struct GraphValue {
  std::string name;
  DType dtype = DType::f32;
  Shape shape{};
  ValueKind kind = ValueKind::temporary;
  Layout layout = Layout::dense;       // of weights
  std::vector<hir::WeightDecl> parts{};  // of weights: the tensors that are packed together
  std::vector<float> constant{};       // of weights that no checkpoint holds
  ValueId slice_of = -1;               // of temporaries: columns of that temporary, …
  int64_t slice_column = 0;            // … from this one on
};

struct GraphNode {
  ops::Op op;
  std::vector<ValueId> inputs, outputs;
  int32_t count = -1;  // as ProgramStep::count
};

struct Graph {
  std::string name;
  std::vector<GraphValue> values;
  std::vector<GraphNode> nodes;
  ValueId counts = -1;

  ValueId add(GraphValue value);
  const GraphValue& at(ValueId id) const { return values.at(static_cast<size_t>(id)); }
  GraphValue& at(ValueId id) { return values.at(static_cast<size_t>(id)); }
  // How many node inputs read the value.
  int64_t uses(ValueId id) const;
};

// Elements of the input "counts" [2 + outputs, + 1 with draws] of a graph made from a Module. An
// output that nothing else reads has a count of its own, so that it is computed only when asked
// for.
inline constexpr int32_t kCountRows = 0;     // token rows of the step
inline constexpr int32_t kCountWanted = 1;   // rows that Select keeps
inline constexpr int32_t kCountOutputs = 2;  // + i: rows to compute of Module::outputs[i]
// + number of outputs: rows to draw from (LowerOptions::draws)

struct LowerOptions {
  DType weights = DType::bf16;  // of matrices and tables; norms and biases are f32. i8: tables that
                                // are no matrix too are bf16
  // Of the projections to q, k and v. Rounding their input to bf16 costs as much accuracy as all
  // other roundings together: either their weights stay f32, or they are bf16 and their input is
  // taken as it is.
  DType attention_weights = DType::f32;
  bool exact_attention_input = false;
  DType kv = DType::bf16;
  int64_t layers = 0, kv_heads = 0, head_dim = 0;  // of the KV pool
  int64_t pages = 0, page_tokens = 16;
  int64_t max_sequences = 1;
  // Draw tokens from the output "logits": inputs "draws" and "draw_context" with so many slots,
  // output "drawn" (ops/sample/sample.h). 0: no such thing.
  int64_t draw_slots = 0;
};

// One op for one operation, or a few. Inputs: counts, token_ids, positions, row_sequence,
// page_table, wanted_rows; one handle: "kv_pool"; outputs as the module names them.
Graph lower_module(const hir::Module& module, const LowerOptions& options);

// Pages of a row of the bucket's page table.
int64_t pages_of(const hir::Bounds& bounds, int64_t page_tokens);

// Rewrites that change no bit of a result: a gate and an up projection and their SiLU become a
// GatedLinear; projections of one input that attention reads become one Linear of stacked
// weights; an addition to a Linear's result becomes its residual.
void fuse(Graph& graph);

// Keeps the nodes that reach an output or append to a handle, and gives each temporary a
// place in the arena that is free while it lives.
Program lower(const Graph& graph);

}  // namespace limpet::engine
