#include "engine/compile_cache.h"

#include <algorithm>
#include <utility>

namespace limpet::engine {

CompileCache::CompileCache(Backend& backend, Options options, GraphBuilder builder,
                           Prepare prepare)
    : backend_(backend),
      options_(std::move(options)),
      builder_(std::move(builder)),
      prepare_(std::move(prepare)) {}

CompileCache::CompileCache(Backend& backend, Options options, ModuleBuilder builder,
                           const LowerOptions& lowering, Prepare prepare)
    : CompileCache(
          backend, std::move(options),
          GraphBuilder([builder = std::move(builder), lowering](const hir::Bounds& upper) {
            Graph graph = lower_module(builder(upper), lowering);
            fuse(graph);
            return graph;
          }),
          std::move(prepare)) {}

std::optional<BucketKey> CompileCache::round_up(BucketKey key) const {
  const auto batch = options_.batch.find(key.batch());
  const auto past = options_.past.find(key.past());
  if (!batch || !past) return std::nullopt;
  return BucketKey::of(batch->high, past->high, key.runs());
}

std::string CompileCache::no_bucket(BucketKey key) const {
  return "no bucket for " + to_string(key) + " (key " + std::to_string(key.value) +
         "); the limits are " +
         to_string(BucketKey::of(options_.batch.limit(), options_.past.limit()));
}

int64_t CompileCache::cost(const Compiled& compiled) {
  return compiled.executable->arena_bytes() +
         static_cast<int64_t>(compiled.program.values.size() * sizeof(ProgramValue) +
                              compiled.program.steps.size() * sizeof(ProgramStep));
}

bool CompileCache::contains(BucketKey key) const {
  const auto bucket = round_up(key);
  return bucket && index_.contains(bucket->value);
}

CompileCache::Found CompileCache::get(BucketKey key) {
  const auto bucket = round_up(key);
  if (!bucket) return {nullptr, no_bucket(key)};
  if (const auto it = index_.find(bucket->value); it != index_.end()) {
    ++counters_.hits;
    entries_.splice(entries_.begin(), entries_, it->second);
    return {&entries_.front(), ""};
  }
  Compiled compiled;
  compiled.key = *bucket;
  compiled.upper = {.rows = bucket->batch(), .past = bucket->past()};
  compiled.upper.wanted = std::min(compiled.upper.rows, options_.max_wanted);
  compiled.program = lower(builder_(compiled.upper));
  compiled.program.runs = bucket->runs();
  compiled.executable = backend_.compile(compiled.program);
  if (prepare_) prepare_(compiled);
  ++counters_.compiles;
  bytes_ += cost(compiled);
  entries_.push_front(std::move(compiled));
  index_[bucket->value] = entries_.begin();
  while (bytes_ > options_.byte_budget && entries_.size() > 1) {
    bytes_ -= cost(entries_.back());
    index_.erase(entries_.back().key.value);
    entries_.pop_back();
    ++counters_.evictions;
  }
  return {&entries_.front(), ""};
}

}  // namespace limpet::engine
