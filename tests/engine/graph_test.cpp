// Lowering, fusion and the memory plan, on modules of the reference checkpoints and by hand.
#include "engine/graph.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "engine/models/architecture.h"

namespace limpet::engine {
namespace {

struct Model {
  ModelConfig config;
  hir::Module module;
  LowerOptions lowering;
};

Model model_of(const std::string& name, const hir::Bounds& bounds = {8, 64, 8}) {
  Model m;
  m.config = load_config(name == "limpet-tiny" ? "models/limpet-tiny" : "tests/golden/" + name);
  m.module = find_architecture(m.config.architecture).build(m.config, bounds);
  m.lowering = {.layers = m.config.layers, .kv_heads = m.config.kv_heads,
                .head_dim = m.config.head_dim, .pages = 10, .max_sequences = 4};
  return m;
}

template <typename Op>
int64_t count(const Program& p) {
  return std::ranges::count_if(p.steps, [](const ProgramStep& s) {
    return std::holds_alternative<Op>(s.op);
  });
}

// The value whose memory this one stands in: itself, or the one it is a slice of.
bool overlap(int64_t a, int64_t a_bytes, int64_t b, int64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

// No step may write into memory that a later step still wants to read from before it.
void expect_sound_plan(const Program& p) {
  const auto value = [&](ValueId id) -> const ProgramValue& {
    return p.values[static_cast<size_t>(id)];
  };
  for (size_t writer = 0; writer < p.steps.size(); ++writer) {
    for (const ValueId out : p.steps[writer].outputs) {
      const ProgramValue& o = value(out);
      if (o.kind != ValueKind::temporary) continue;
      EXPECT_GE(o.offset, 0);
      EXPECT_LE(o.offset + o.bytes(), p.arena_bytes);
      EXPECT_EQ(o.offset % 64, 0);
      for (const ValueId in : p.steps[writer].inputs) {
        const ProgramValue& i = value(in);
        if (i.kind != ValueKind::temporary) continue;
        EXPECT_FALSE(overlap(o.offset, o.bytes(), i.offset, i.bytes())) << o.name << i.name;
      }
      for (size_t reader = writer + 1; reader < p.steps.size(); ++reader) {
        for (const ValueId in : p.steps[reader].inputs) {
          const ProgramValue& i = value(in);
          if (i.kind != ValueKind::temporary) continue;
          if (!overlap(o.offset, o.bytes(), i.offset, i.bytes())) continue;
          // Whoever last wrote there before the reader must have made what it reads.
          size_t last = reader;
          bool found = false;
          while (last-- > 0 && !found) {
            for (const ValueId w : p.steps[last].outputs) {
              const ProgramValue& v = value(w);
              found = found || (v.kind == ValueKind::temporary &&
                                overlap(v.offset, v.bytes(), i.offset, i.bytes()));
              if (!found) continue;
              const bool whole = v.offset <= i.offset &&
                                 i.offset + i.bytes() <= v.offset + v.bytes();
              EXPECT_TRUE(w == in || (i.row_stride != 0 && whole)) << i.name << " reads " << v.name;
            }
          }
        }
      }
    }
  }
}

TEST(Graph, EveryArchitectureLowersToASoundProgram) {
  for (const char* name : {"llama-gqa", "qwen2-gqa7", "qwen3-qknorm", "mistral-swa",
                           "limpet-tiny"}) {
    SCOPED_TRACE(name);
    const Model m = model_of(name);
    Graph graph = lower_module(m.module, m.lowering);
    const Program plain = lower(graph);
    expect_sound_plan(plain);
    validate(plain);
    fuse(graph);
    const Program fused = lower(graph);
    expect_sound_plan(fused);
    validate(fused);
    EXPECT_EQ(count<ops::SiluMul>(fused) + count<ops::Add>(fused), 0);
    EXPECT_EQ(count<ops::GatedLinear>(fused), m.config.layers);
    // Per layer: stacked q, k and v; the output projection; the down projection. And the head.
    EXPECT_EQ(count<ops::Linear>(fused), 3 * m.config.layers + 1);
    EXPECT_EQ(count<ops::Linear>(plain), 7 * m.config.layers + 1);
    int64_t all = 0;
    for (const ProgramValue& v : plain.values) {
      all += v.kind == ValueKind::temporary ? v.bytes() : 0;
    }
    EXPECT_LT(plain.arena_bytes, all / 3);
  }
}

TEST(Graph, FusionOfADeepModelTakesNoTime) {
  Model m = model_of("llama-gqa");
  m.config.layers = m.lowering.layers = 1024;
  m.config.window.resize(1024);
  m.module = find_architecture(m.config.architecture).build(m.config, {8, 64, 8});
  Graph graph = lower_module(m.module, m.lowering);
  const auto start = std::chrono::steady_clock::now();
  fuse(graph);
  // A second is a hundred times what a linear one takes; a cubic one takes a minute.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_EQ(std::ranges::count_if(graph.nodes, [](const GraphNode& n) {
              return std::holds_alternative<ops::GatedLinear>(n.op);
            }), 1024);
}

TEST(Graph, StackedWeightsKeepTheirOrder) {
  const Model m = model_of("qwen2-gqa7");
  Graph graph = lower_module(m.module, m.lowering);
  fuse(graph);
  const auto it = std::ranges::find_if(graph.nodes, [](const GraphNode& n) {
    return std::holds_alternative<ops::Linear>(n.op);
  });
  ASSERT_NE(it, graph.nodes.end());
  const GraphValue& weight = graph.at(it->inputs[1]);
  ASSERT_EQ(weight.parts.size(), 3u);
  EXPECT_TRUE(weight.parts[0].name.ends_with("q_proj.weight"));
  EXPECT_TRUE(weight.parts[1].name.ends_with("k_proj.weight"));
  EXPECT_TRUE(weight.parts[2].name.ends_with("v_proj.weight"));
  EXPECT_EQ(weight.shape, (Shape{112 + 16 + 16, 112}));
  EXPECT_EQ(graph.at(it->inputs[2]).shape, (Shape{112 + 16 + 16}));
}

TEST(Graph, ATiedTableIsKeptOnceAndAnUntiedOneIsDense) {
  const auto tables = [](const std::string& name) {
    const Model m = model_of(name);
    const Graph g = lower_module(m.module, m.lowering);
    std::vector<Layout> layouts;
    for (const GraphValue& v : g.values) {
      if (v.name.find("embed_tokens") != std::string::npos) layouts.push_back(v.layout);
    }
    return layouts;
  };
  EXPECT_EQ(tables("qwen2-gqa7"), std::vector{Layout::linear});
  EXPECT_EQ(tables("llama-gqa"), std::vector{Layout::dense});
}

TEST(Graph, AGateWithABiasIsNotFused) {
  Model m = model_of("llama-gqa");
  m.config.mlp_bias = true;
  m.module = find_architecture("LlamaForCausalLM").build(m.config, {4, 16, 4});
  Graph graph = lower_module(m.module, m.lowering);
  fuse(graph);
  const Program p = lower(graph);
  validate(p);
  EXPECT_EQ(count<ops::GatedLinear>(p), 0);
  EXPECT_EQ(count<ops::SiluMul>(p), m.config.layers);
  expect_sound_plan(p);
}

// x -> y = x + x -> out = y + x, and a node that nobody reads.
TEST(Graph, DeadNodesAreDroppedAndReadingTooEarlyIsABug) {
  Graph g;
  const ValueId x = g.add({.name = "x", .shape = {1, 4}, .kind = ValueKind::input});
  const ValueId y = g.add({.name = "y", .shape = {1, 4}});
  const ValueId dead = g.add({.name = "dead", .shape = {1, 4}});
  const ValueId out = g.add({.name = "out", .shape = {1, 4}, .kind = ValueKind::output});
  g.nodes = {{ops::Add{}, {x, x}, {y}}, {ops::SiluMul{}, {y, y}, {dead}},
             {ops::Add{}, {y, x}, {out}}};
  const Program p = lower(g);
  EXPECT_EQ(p.steps.size(), 2u);
  EXPECT_EQ(p.values.size(), 3u);
  EXPECT_EQ(p.arena_bytes, 64);
  std::swap(g.nodes[0], g.nodes[2]);
  EXPECT_THROW(lower(g), std::logic_error);
}

TEST(Graph, MalformedModulesAreBugs) {
  hir::Module m;
  const auto table = m.weight("t", {10, 4});
  const auto x = m.embed(table);
  EXPECT_THROW(m.weight("t", {10, 5}), std::logic_error);
  EXPECT_THROW(m.project(x, m.weight("w", {3, 5})), std::logic_error);
  EXPECT_THROW(m.norm(x, m.weight("n", {3}), 1e-6), std::logic_error);
  EXPECT_THROW(m.sum(x, 7), std::logic_error);
  EXPECT_THROW(m.attend({.heads = 1, .kv_heads = 1, .head_dim = 4}, x, x, x), std::logic_error);
}

TEST(Architectures, UnknownOnesAreRefusedByName) {
  try {
    find_architecture("PhiForCausalLM");
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_NE(std::string(e.what()).find("'PhiForCausalLM'"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("Qwen2ForCausalLM"), std::string::npos);
  }
  ModelConfig c = load_config("tests/golden/llama-gqa");
  c.prediction_layers = 1;
  EXPECT_THROW(find_architecture(c.architecture).prediction_weights(c), std::runtime_error);
}

}  // namespace
}  // namespace limpet::engine
