// A fused program gives the same bits as the plain one; a Module and its Graph give the same.
#include <gtest/gtest.h>

#include <algorithm>

#include "backends/make_backend.h"
#include "engine/checkpoint.h"
#include "engine/compile_cache.h"
#include "engine/handles.h"
#include "engine/models/architecture.h"
#include "engine/step_io.h"
#include "engine/weight_store.h"

namespace limpet::engine {
namespace {

// One prefill step of a model without the engine around it: a library of parts.
class Parts {
 public:
  Parts(const std::string& dir, DType dtype)
      : config_(load_config(dir)),
        checkpoint_(Checkpoint::open(dir)),
        backend_(make_backend(parse_device("cpu"), {.threads = 1})),
        kv_({.page_tokens = 16, .pages = 8}) {
    lowering_ = {.weights = dtype, .kv = dtype, .layers = config_.layers,
                 .kv_heads = config_.kv_heads, .head_dim = config_.head_dim, .pages = 8,
                 .max_sequences = 2};
  }

  hir::Module module(const hir::Bounds& upper) const {
    return find_architecture(config_.architecture).build(config_, upper);
  }
  Graph graph(const hir::Bounds& upper) const { return lower_module(module(upper), lowering_); }

  // All rows' logits, from a cache that builds Modules (lowered and fused) or plain Graphs.
  std::vector<float> run(bool fused) {
    Handles handles(*backend_);
    WeightStore weights(*backend_);
    StepIo io(*backend_, {.rows = 32, .wanted = 32, .sequences = 2, .pages = 6,
                          .hidden = config_.hidden, .vocab = config_.vocab});
    handles.bind("kv_pool", int64_t{8} * config_.layers * 2 * 16 * config_.kv_heads *
                                config_.head_dim * size_of(lowering_.kv));
    Graph loaded = graph({32, 64, 32});
    if (fused) fuse(loaded);
    weights.load(loaded, checkpoint_);
    const auto prepare = [&](Compiled& c) {
      handles.attach(c.program, *c.executable);
      weights.attach(c.program, *c.executable);
      io.attach(c.program, *c.executable);
    };
    const CompileCache::Options options{.batch = Ladder::single(32), .past = Ladder::single(64)};
    CompileCache cache =
        fused ? CompileCache(*backend_, options,
                             CompileCache::ModuleBuilder(
                                 [this](const hir::Bounds& upper) { return module(upper); }),
                             lowering_, prepare)
              : CompileCache(*backend_, options,
                             CompileCache::GraphBuilder(
                                 [this](const hir::Bounds& upper) { return graph(upper); }),
                             prepare);
    return step(cache, handles, io);
  }

 private:
  std::vector<float> step(CompileCache& cache, Handles& handles, StepIo& io) {
    std::vector<Token> tokens(23);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<Token>(i * 13 % 300);
    const SequenceId s = kv_.create(0);
    EXPECT_TRUE(kv_.reserve(s, 23));
    StepPlan plan;
    const std::vector<StepRow> rows = {{s, tokens, Want::all}};
    const StepLimits limits{32, 2, 32, 64, config_.vocab};
    EXPECT_EQ(plan_step(rows, kv_, limits, plan), "");
    const Compiled& c = *cache.get(BucketKey::of(23, 0)).compiled;
    io.write(plan, kv_, pages_of(c.upper, 16), ReadBack::logits);
    handles.run(c.program, *c.executable);
    const auto logits = io.read(ReadBack::logits, 23);
    kv_.destroy(s);
    return {logits.begin(), logits.end()};
  }

  ModelConfig config_;
  Checkpoint checkpoint_;
  std::unique_ptr<Backend> backend_;
  KvCache kv_;
  LowerOptions lowering_;
};

TEST(Fusion, AModuleFusedIsItsGraphPlainBitForBit) {
  for (const char* name : {"llama-gqa", "qwen2-gqa7", "qwen3-qknorm", "mistral-swa"}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(std::string(name) + " " + name_of(dtype));
      Parts parts(std::string("tests/golden/") + name, dtype);
      const auto plain = parts.run(false);
      EXPECT_TRUE(std::ranges::any_of(plain, [](float v) { return v != 0; }));
      EXPECT_EQ(parts.run(true), plain);
    }
  }
}

}  // namespace
}  // namespace limpet::engine
