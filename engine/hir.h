// A model in model-level operations, as its architecture's file writes it down.
//
// A Module is built for one bucket: its shapes are the bucket's upper bounds. It names weights by
// their names in the checkpoint and knows nothing of kernels, fusion or memory; lowering
// (engine/graph.h) turns it into ops. Plain data; shapes are checked as nodes are added, and a
// mismatch is a bug: std::logic_error.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace limpet::engine::hir {

using Value = int32_t;   // index into Module::values
using Weight = int32_t;  // index into Module::weights

// Upper bounds of a bucket: token rows of the step, tokens of its longest past, rows that are
// wanted back.
struct Bounds {
  int64_t rows = 1;
  int64_t past = 0;
  int64_t wanted = 1;
};

// Rows of the embedding table [vocab, hidden] for the step's tokens -> [rows, hidden].
struct Embed {
  Weight table = 0;
};
// Root-mean-square norm over the last axis, times `weight`. With `heads` > 0 it is applied to
// each of the `heads` slices of a row, and `weight` is [width / heads].
struct Norm {
  Weight weight = 0;
  float eps = 0;
  int64_t heads = 0;
};
// x [rows, k] times weight [n, k] transposed, plus bias [n] -> [rows, n].
struct Project {
  Weight weight = 0;
  std::optional<Weight> bias;
};
// Causal self-attention over the resident KV of layer `layer`, which it appends to first:
// q [rows, heads * head_dim], k and v [rows, kv_heads * head_dim] -> [rows, heads * head_dim].
// q and k are rotated by position. Each query sees `window` keys, itself included; 0: all.
struct Attend {
  int64_t layer = 0, heads = 0, kv_heads = 0, head_dim = 0, window = 0;
  float scale = 1;
};
struct Gate {};    // silu(a) * b
struct Sum {};     // a + b
struct Select {};  // the rows whose results are wanted -> [rows, width]

// Dynamic rotary scaling: rows beyond `trained` tokens rotate slower than the module's frequencies
// say (ops/rope_table/rope_table.h says how); factor 0: none.
struct RopeGrowth {
  double theta = 0, factor = 0;
  int64_t trained = 0, least = 0;
};

using Operation = std::variant<Embed, Norm, Project, Attend, Gate, Sum, Select>;

struct Node {
  Operation operation;
  std::vector<Value> inputs;
  Value output = 0;
};
struct WeightDecl {
  std::string name;
  std::vector<int64_t> shape;
};
struct Output {
  std::string name;  // "logits", "hidden"
  Value value = 0;
};

struct Module {
  Bounds bounds;
  std::vector<int64_t> values;  // width of each; all are [bounds.rows, width] float32
  std::vector<WeightDecl> weights;
  std::vector<Node> nodes;  // in an order that can be executed
  std::vector<Output> outputs;
  std::vector<float> rope_frequencies;  // [head_dim / 2], used by every Attend
  RopeGrowth rope_growth;

  Weight weight(std::string name, std::vector<int64_t> shape);  // the same name is the same weight
  Value embed(Weight table);
  Value norm(Value x, Weight weight, double eps, int64_t heads = 0);
  Value project(Value x, Weight weight, std::optional<Weight> bias = {});
  Value attend(const Attend& attend, Value q, Value k, Value v);
  Value gate(Value a, Value b);
  Value sum(Value a, Value b);
  Value select(Value x);
  void output(std::string name, Value value);

 private:
  Value add(Operation operation, std::vector<Value> inputs, int64_t width);
  int64_t width(Value v) const;
};

}  // namespace limpet::engine::hir
