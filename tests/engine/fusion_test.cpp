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

// A prefill and decode steps of a model without the engine around it: a library of parts.
class Parts {
 public:
  Parts(const std::string& dir, DType dtype)
      : config_(load_config(dir)),
        checkpoint_(Checkpoint::open(dir)),
        backend_(make_backend(parse_device("cpu"), {.threads = 1})),
        // Each run has a pool of its own, so that a page's content of one is not the other's.
        kv_({.page_tokens = 16, .pages = 8, .share_prefixes = false}) {
    lowering_ = {.weights = dtype, .kv = dtype, .layers = config_.layers,
                 .kv_heads = config_.kv_heads, .head_dim = config_.head_dim, .pages = 8,
                 .max_sequences = 2};
  }

  hir::Module module(const hir::Bounds& upper) const {
    return find_architecture(config_.architecture).build(config_, upper);
  }
  Graph graph(const hir::Bounds& upper) const { return lower_module(module(upper), lowering_); }

  // All rows' logits of a prompt and three decoded tokens, from a cache that builds Modules
  // (lowered and fused) or plain Graphs.
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
    const CompileCache::Options options{.batch = Ladder::powers_of_two(1, 32),
                                        .past = Ladder::single(64)};
    CompileCache cache =
        fused ? CompileCache(*backend_, options,
                             CompileCache::ModuleBuilder(
                                 [this](const hir::Bounds& upper) { return module(upper); }),
                             lowering_, prepare)
              : CompileCache(*backend_, options,
                             CompileCache::GraphBuilder(
                                 [this](const hir::Bounds& upper) { return graph(upper); }),
                             prepare);
    const SequenceId s = kv_.create(0);
    std::vector<Token> prompt(23);
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<Token>(i * 13 % 300);
    std::vector<float> logits = step(cache, handles, io, s, prompt);
    for (const Token t : {Token{7}, Token{250}, Token{31}}) {
      const auto row = step(cache, handles, io, s, {&t, 1});
      logits.insert(logits.end(), row.begin(), row.end());
    }
    EXPECT_EQ(cache.compiled_count(), 2);  // the prompt's bucket and the decode steps'
    EXPECT_EQ(kv_.length(s), 26);
    kv_.destroy(s);
    return logits;
  }

 private:
  std::vector<float> step(CompileCache& cache, Handles& handles, StepIo& io, SequenceId s,
                          std::span<const Token> tokens) {
    EXPECT_TRUE(kv_.reserve(s, std::ssize(tokens)));
    StepPlan plan;
    const std::vector<StepRow> rows = {{s, tokens, Want::all}};
    const StepLimits limits{32, 2, 32, 64, config_.vocab};
    EXPECT_EQ(plan_step(rows, kv_, limits, plan), "");
    const Compiled& c = *cache.get(BucketKey::of(static_cast<uint32_t>(plan.rows()),
                                                static_cast<uint32_t>(plan.longest_past))).compiled;
    io.write(plan, kv_, pages_of(c.upper, 16), ReadBack::logits);
    handles.run(c.program, *c.executable);
    const auto logits = io.read(ReadBack::logits, plan.rows());
    kv_.commit(s, tokens);
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
