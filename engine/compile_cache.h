// One Executable per shape bucket, compiled when it is first needed.
//
// The builder makes a Graph, or a Module that is lowered and fused, for a bucket's upper bounds.
// Weights and KV belong to whoever prepares an executable, so a bucket costs its arena alone.
// Owned and driven by the thread that drives the backend.
#pragma once
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "backends/backend.h"
#include "engine/bucket.h"
#include "engine/graph.h"

namespace limpet::engine {

struct Compiled {
  BucketKey key;      // upper bounds of the bucket
  hir::Bounds upper;  // the same, as the builder got them
  Program program;
  std::unique_ptr<Executable> executable;
};

class CompileCache {
 public:
  using GraphBuilder = std::function<Graph(const hir::Bounds& upper)>;
  using ModuleBuilder = std::function<hir::Module(const hir::Bounds& upper)>;
  using Prepare = std::function<void(Compiled&)>;  // binds what all executables share

  struct Options {
    Ladder batch, past;
    int64_t max_wanted = 1 << 30;      // rows wanted back: this, or the bucket's rows if fewer
    int64_t byte_budget = 256 << 20;   // of arenas; the one in use always stays
  };
  struct Counters {
    int64_t compiles = 0, hits = 0, evictions = 0;
  };
  struct Found {
    Compiled* compiled = nullptr;  // valid until the next get()
    std::string error;             // when there is no bucket for the key
  };

  CompileCache(Backend& backend, Options options, GraphBuilder builder, Prepare prepare = {});
  CompileCache(Backend& backend, Options options, ModuleBuilder builder,
               const LowerOptions& lowering, Prepare prepare = {});

  // The executable whose bucket holds the key: true batch and past, not rounded.
  Found get(BucketKey key);
  bool contains(BucketKey key) const;  // compiled now
  int64_t compiled_count() const { return static_cast<int64_t>(entries_.size()); }
  int64_t bytes() const { return bytes_; }
  const Counters& counters() const { return counters_; }
  const Options& options() const { return options_; }

 private:
  static int64_t cost(const Compiled& compiled);
  std::optional<BucketKey> round_up(BucketKey key) const;
  std::string no_bucket(BucketKey key) const;

  Backend& backend_;
  Options options_;
  GraphBuilder builder_;
  Prepare prepare_;
  std::list<Compiled> entries_;  // most recently used first
  std::unordered_map<uint64_t, std::list<Compiled>::iterator> index_;
  int64_t bytes_ = 0;
  Counters counters_;
};

}  // namespace limpet::engine
