#include "engine/engine.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <stdexcept>

#include "backends/make_backend.h"
#include "engine/checkpoint.h"
#include "engine/compile_cache.h"
#include "engine/completed_options.h"
#include "engine/config.h"
#include "engine/device_support.h"
#include "engine/drawn_steps.h"
#include "engine/handles.h"
#include "engine/host_pages.h"
#include "engine/kv_layout.h"
#include "engine/models/architecture.h"
#include "engine/step_io.h"
#include "engine/step_plan.h"
#include "engine/weight_store.h"

namespace limpet::engine {
namespace {

constexpr uint32_t kFirstPast = 64;  // the smallest bucket of pasts

DType dtype_of(Precision p) { return p == Precision::f32 ? DType::f32 : DType::bf16; }

// Adds what the backend moves while this lives to two counters.
class Traffic {
 public:
  Traffic(const Backend& backend, int64_t& up, int64_t& down)
      : backend_(backend), before_(backend.counters()), up_(up), down_(down) {}
  ~Traffic() {
    const BackendCounters now = backend_.counters();
    up_ += now.bytes_up - before_.bytes_up;
    down_ += now.bytes_down - before_.bytes_down;
  }
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

 private:
  const Backend& backend_;
  const BackendCounters before_;
  int64_t &up_, &down_;
};

class DeviceEngine final : public Engine {
 public:
  DeviceEngine(const EngineOptions& options, const ModelConfig& config,
               const Architecture& architecture, std::unique_ptr<Backend> backend,
               const Checkpoint& checkpoint)
      : options_(options),
        config_(config),
        architecture_(architecture),
        layout_(layout_of(config, options.precision)),
        backend_(std::move(backend)),
        kv_({.page_tokens = static_cast<int32_t>(kPageTokens),
             .pages = static_cast<int32_t>(options.kv_pages),
             .share_prefixes = options.share_prefixes}),
        limits_(make_limits()),
        handles_(*backend_),
        host_pages_(*backend_, layout_.page_bytes()),
        weights_(*backend_),
        io_(*backend_, io_sizes()),
        cache_(make_cache()),
        drawn_(kv_, io_, limits_,
               [this](int64_t rows, int64_t sequences, int64_t past, const auto& write) {
                 return run_drawn(rows, sequences, past, write);
               }) {
    handles_.bind("kv_pool", options_.kv_pages * layout_.page_bytes());
    load_weights(checkpoint);
    describe(checkpoint);
  }

  const EngineInfo& info() const override { return info_; }
  KvCache& kv() override { return kv_; }
  const BindingState& binding() const override { return binding_; }
  void reset_binding() override { binding_.reset(); }
  void reset_after_block() override { binding_.reset_after_block(); }

  EngineCounters counters() const override {
    EngineCounters c = counters_;
    const BackendCounters moved = backend_->counters();
    c.kv_bytes_moved = moved.bytes_copied;
    c.weight_bytes_up = moved.bytes_up - c.bytes_up - c.kv_bytes_up;
    c.weight_bytes_allocated = moved.bytes_packed;
    c.compiles = cache_.counters().compiles;
    c.compile_hits = cache_.counters().hits;
    c.compile_evictions = cache_.counters().evictions;
    c.graph_launches = moved.graph_launches;
    c.eager_runs = moved.eager_runs;
    c.captures = moved.captures;
    c.capture_seconds = moved.capture_seconds;
    c.fused_programs = moved.fused_programs;
    c.choices_timed = moved.choices_timed;
    c.choice_seconds = moved.choice_seconds;
    c.busy_seconds = moved.busy_seconds;
    c.idle_seconds = moved.idle_seconds;
    return c;
  }

  StepResult step(std::span<const StepRow> rows, ReadBack what) override;
  std::string install(SequenceId id, std::span<const Token> tokens, const HostKv& kv) override;
  HostKv sync_to_host(SequenceId id) override;
  void read_page(int32_t page, std::span<std::byte> to) override;
  void write_page(int32_t page, std::span<const std::byte> from) override;
  void make_host_pages(int64_t pages) override { host_pages_.make(pages); }
  std::span<std::byte> host_page(int32_t page) override { return host_pages_.at(page); }
  uint64_t begin_moves(bool to_device, std::span<const HostMove> moves) override {
    make_copies();
    const Traffic traffic(*backend_, counters_.kv_bytes_up, counters_.kv_bytes_down);
    return host_pages_.begin(handles_.at("kv_pool"), to_device, moves);
  }
  bool moves_done(uint64_t number) override { return backend_->side_copies_done(number); }
  bool has(std::string_view handle) const override { return parse_handle(handle).has_value(); }
  std::vector<float> read(std::string_view handle, SequenceId id) override;
  void warm(int64_t max_batch, int64_t max_past, const WarmProgress& told) override;
  void fill_kv(uint64_t seed) override {
    backend_->fill(handles_.at("kv_pool"), dtype_of(options_.precision), seed, 1.0f);
  }
  double read_bandwidth(int64_t bytes) override { return backend_->read_bandwidth(bytes); }

 private:
  struct LayerHandle {
    size_t layer = 0;
    bool k = true;
  };

  StepLimits make_limits() const {
    return {.max_rows = options_.max_rows,
            .max_sequences = options_.max_sequences,
            .max_wanted = options_.max_wanted,
            .max_context = std::min(config_.max_context, options_.kv_pages * kPageTokens),
            .vocab = config_.vocab};
  }
  StepIo::Sizes io_sizes() const {
    const hir::Bounds largest{limits_.max_rows, limits_.max_context, limits_.max_wanted};
    return {.rows = limits_.max_rows,
            .wanted = limits_.max_wanted,
            .sequences = limits_.max_sequences,
            .pages = pages_of(largest, kPageTokens),
            .hidden = config_.hidden,
            .vocab = config_.vocab};
  }
  LowerOptions lowering() const {
    const DType weights = options_.int8_weights ? DType::i8 : dtype_of(options_.precision);
    return {.weights = weights,
            .attention_weights = weights,
            .exact_attention_input = weights == DType::bf16,
            .kv = dtype_of(options_.precision),
            .layers = config_.layers,
            .kv_heads = config_.kv_heads,
            .head_dim = config_.head_dim,
            .pages = options_.kv_pages,
            .page_tokens = kPageTokens,
            .max_sequences = limits_.max_sequences,
            .draw_slots = limits_.max_sequences};
  }
  CompileCache make_cache() {
    CompileCache::Options o{
        .batch = make_ladder(options_.buckets.batch, 1, static_cast<uint32_t>(limits_.max_rows)),
        .past = make_ladder(options_.buckets.past, kFirstPast,
                            static_cast<uint32_t>(limits_.max_context)),
        .max_wanted = limits_.max_wanted,
        .byte_budget = options_.compiled_bytes};
    return {*backend_, std::move(o),
            CompileCache::ModuleBuilder([this](const hir::Bounds& upper) {
              return architecture_.build(config_, upper);
            }),
            lowering(), [this](Compiled& c) {
              weights_.attach(c.program, *c.executable);
              io_.attach(c.program, *c.executable);
              handles_.attach(c.program, *c.executable);
              c.executable->prepare();
            }};
  }
  void load_weights(const Checkpoint& checkpoint) {
    Graph graph = lower_module(architecture_.build(config_, {}), lowering());
    fuse(graph);
    const auto kept = architecture_.prediction_weights(config_);
    std::vector<hir::WeightDecl> all = WeightStore::needed(graph);
    all.insert(all.end(), kept.begin(), kept.end());
    checkpoint.check(all);  // what is wrong is told before any weight is read
    weights_.load(graph, checkpoint);
    weights_.keep(kept, lowering().weights, checkpoint);
  }
  void describe(const Checkpoint& checkpoint) {
    const Device device = backend_->info().device;
    info_ = {.architecture = config_.architecture,
             .device = to_string(device),
             .about = backend_->info().description,
             .lacks = backend_->info().lacks,
             .precision = options_.precision,
             .int8_weights = options_.int8_weights,
             .vocab = config_.vocab,
             .hidden = config_.hidden,
             .layers = config_.layers,
             .heads = config_.heads,
             .kv_heads = config_.kv_heads,
             .head_dim = config_.head_dim,
             .max_context = limits_.max_context,
             .eos = config_.eos,
             .page_bytes = layout_.page_bytes(),
             .weight_bytes = weights_.bytes(),
             .prediction_layers = config_.prediction_layers,
             .resident_kv = supports_resident_kv(device.kind),
             .runs_ahead = device.kind != DeviceKind::cpu};
    info_.fingerprint = hash_bytes(options_.precision == Precision::f32 ? "f32" : "bf16",
                                   checkpoint.fingerprint() ^ config_.text_hash);
    if (config_.rope.bf16_frequencies) info_.fingerprint = ~info_.fingerprint;
    if (options_.int8_weights) info_.fingerprint = hash_bytes("int8", info_.fingerprint);
    // Devices of one kind compute the same bits; others only nearly so.
    const int64_t shape[] = {layout_.layers, layout_.kv_heads, layout_.head_dim,
                             layout_.page_tokens, static_cast<int64_t>(device.kind)};
    const std::string_view bytes(reinterpret_cast<const char*>(shape), sizeof(shape));
    info_.kv_layout = std::max<uint64_t>(hash_bytes(bytes, info_.fingerprint), 1);
  }

  std::string submit(std::span<const DrawRow> rows) override { return drawn_.submit(rows); }
  std::string submit_next(std::span<const int32_t> from) override {
    return drawn_.submit_next(from);
  }
  std::vector<Sampled> collect(std::span<const int32_t> keep) override {
    const Traffic traffic(*backend_, counters_.bytes_up, counters_.bytes_down);
    return drawn_.collect(keep);
  }
  std::string run_drawn(int64_t rows, int64_t sequences, int64_t past,
                        const std::function<void(int64_t)>& write);
  // Whether programs of this range of rows are made apart for runs of a sequence's rows.
  bool tells_runs(const std::optional<Ladder::Range>& rows) const {
    return rows && rows->high > 1 && rows->high <= backend_->info().scattered_rows;
  }
  BucketKey key_of(int64_t rows, int64_t sequences, int64_t past) const {
    const auto batch = static_cast<uint32_t>(rows);
    const bool runs = rows > sequences && tells_runs(cache_.options().batch.find(batch));
    return BucketKey::of(batch, static_cast<uint32_t>(past), runs);
  }
  void run_step(const StepPlan& plan, ReadBack what, StepResult& result);
  // Copies of pages that the bookkeeping has promised, before anything else is written.
  void make_copies() {
    Buffer& pool = handles_.at("kv_pool");
    const int64_t bytes = layout_.page_bytes();
    for (const PageCopy& c : kv_.take_copies()) {
      backend_->copy(pool, c.to * bytes, pool, c.from * bytes, bytes);
    }
  }
  std::optional<LayerHandle> parse_handle(std::string_view name) const {
    const bool k = name.starts_with("past_k_");
    if (!k && !name.starts_with("past_v_")) return std::nullopt;
    const std::string_view digits = name.substr(7);
    LayerHandle handle{.layer = 0, .k = k};
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), handle.layer);
    const bool whole = error == std::errc() && end == digits.data() + digits.size();
    if (!whole || static_cast<int64_t>(handle.layer) >= config_.layers) return std::nullopt;
    return handle;
  }
  std::string check_install(SequenceId id, std::span<const Token> tokens, const HostKv& kv) const;

  EngineOptions options_;
  ModelConfig config_;
  const Architecture& architecture_;
  KvLayout layout_;
  std::unique_ptr<Backend> backend_;
  KvCache kv_;
  StepLimits limits_;
  Handles handles_;
  HostPages host_pages_;
  WeightStore weights_;
  StepIo io_;
  CompileCache cache_;
  DrawnSteps drawn_;
  BindingState binding_;
  EngineInfo info_;
  EngineCounters counters_;
};

StepResult DeviceEngine::step(std::span<const StepRow> rows, ReadBack what) {
  StepResult result;
  StepPlan plan;
  if (drawn_.in_flight() > 0) {
    result.error = "a step is in flight that was not collected";
    return result;
  }
  result.error = plan_step(rows, kv_, limits_, plan);
  if (!result.ok()) return result;
  try {
    run_step(plan, what, result);
  } catch (const DeviceLost&) {
    throw;
  } catch (const std::runtime_error& e) {  // no memory for a new bucket
    result.error = e.what();
  }
  if (!result.ok()) return result;
  for (const StepRow& row : rows) kv_.commit(row.sequence, row.tokens);
  ++counters_.steps;
  counters_.rows += plan.rows();
  result.first = std::move(plan.first);
  return result;
}

void DeviceEngine::run_step(const StepPlan& plan, ReadBack what, StepResult& result) {
  const Traffic traffic(*backend_, counters_.bytes_up, counters_.bytes_down);
  const auto found = cache_.get(key_of(plan.rows(), std::ssize(plan.sequences), plan.longest_past));
  result.error = found.error;
  if (!result.ok()) return;
  const Compiled& compiled = *found.compiled;
  make_copies();
  io_.write(plan, kv_, pages_of(compiled.upper, kPageTokens), what);
  handles_.run(compiled.program, *compiled.executable);
  binding_.bind(ProgramKind::decode, compiled.upper.past);
  result.rows = plan.wanted();
  result.width = io_.width(what);
  result.values = io_.read(what, plan.wanted());
}

std::string DeviceEngine::run_drawn(int64_t rows, int64_t sequences, int64_t past,
                                    const std::function<void(int64_t)>& write) {
  const Traffic traffic(*backend_, counters_.bytes_up, counters_.bytes_down);
  try {
    const auto found = cache_.get(key_of(rows, sequences, past));
    if (!found.error.empty()) return found.error;
    make_copies();
    write(pages_of(found.compiled->upper, kPageTokens));
    handles_.run(found.compiled->program, *found.compiled->executable);
    binding_.bind(ProgramKind::decode, found.compiled->upper.past);
  } catch (const DeviceLost&) {
    throw;
  } catch (const std::runtime_error& e) {  // no memory for a new bucket
    return e.what();
  }
  ++counters_.steps;
  counters_.rows += rows;
  return "";
}

std::string DeviceEngine::check_install(SequenceId id, std::span<const Token> tokens,
                                        const HostKv& kv) const {
  if (!kv_.contains(id)) return "install into an unknown sequence";
  if (kv_.length(id) != 0) return "install into a sequence that is not empty";
  const int64_t n = std::ssize(tokens);
  if (n > limits_.max_context) return "install of more tokens than the context holds";
  for (const Token t : tokens) {
    if (t < 0 || t >= config_.vocab) return "install of a token that is not in the vocab";
  }
  if (kv.rows < n || kv.kv_dim != layout_.kv_dim() || std::ssize(kv.layers) != config_.layers) {
    return "install of KV of another shape";
  }
  for (const HostKv::Layer& layer : kv.layers) {
    const int64_t elements = kv.rows * kv.kv_dim;
    if (std::ssize(layer.k) != elements || std::ssize(layer.v) != elements) {
      return "install of KV whose layers do not have its rows";
    }
  }
  return "";
}

std::string DeviceEngine::install(SequenceId id, std::span<const Token> tokens,
                                  const HostKv& kv) {
  if (auto error = check_install(id, tokens, kv); !error.empty()) return error;
  if (!kv_.reserve(id, std::ssize(tokens))) return "no free KV pages to install into";
  make_copies();
  const Traffic traffic(*backend_, counters_.kv_bytes_up, counters_.kv_bytes_down);
  Buffer& pool = handles_.at("kv_pool");
  std::vector<std::byte> page(static_cast<size_t>(layout_.page_bytes()));
  int64_t row = 0;
  for (const int32_t number : kv_.page_table(id)) {
    const int64_t rows = std::min(kPageTokens, std::ssize(tokens) - row);
    if (rows <= 0) break;
    layout_.to_page(kv, row, rows, page);
    backend_->write(pool, number * layout_.page_bytes(), page.data(), std::ssize(page));
    row += rows;
  }
  kv_.commit(id, tokens);
  return "";
}

HostKv DeviceEngine::sync_to_host(SequenceId id) {
  make_copies();
  const Traffic traffic(*backend_, counters_.kv_bytes_up, counters_.kv_bytes_down);
  HostKv kv;
  kv.rows = kv_.length(id);
  kv.kv_dim = layout_.kv_dim();
  kv.layers.resize(static_cast<size_t>(config_.layers));
  for (HostKv::Layer& layer : kv.layers) {
    layer.k.resize(static_cast<size_t>(kv.rows * kv.kv_dim));
    layer.v.resize(layer.k.size());
  }
  const Buffer& pool = handles_.at("kv_pool");
  std::vector<std::byte> page(static_cast<size_t>(layout_.page_bytes()));
  int64_t row = 0;
  for (const int32_t number : kv_.page_table(id)) {
    const int64_t rows = std::min(kPageTokens, kv.rows - row);
    if (rows <= 0) break;
    backend_->read(pool, number * layout_.page_bytes(), page.data(), std::ssize(page));
    layout_.to_rows(page, rows, kv, row);
    row += rows;
  }
  return kv;
}

void DeviceEngine::read_page(int32_t page, std::span<std::byte> to) {
  if (std::ssize(to) != layout_.page_bytes()) throw std::logic_error("not the bytes of one page");
  make_copies();
  const Traffic traffic(*backend_, counters_.kv_bytes_up, counters_.kv_bytes_down);
  backend_->read(handles_.at("kv_pool"), page * layout_.page_bytes(), to.data(), std::ssize(to));
}

void DeviceEngine::write_page(int32_t page, std::span<const std::byte> from) {
  if (std::ssize(from) != layout_.page_bytes()) {
    throw std::logic_error("not the bytes of one page");
  }
  make_copies();
  const Traffic traffic(*backend_, counters_.kv_bytes_up, counters_.kv_bytes_down);
  backend_->write(handles_.at("kv_pool"), page * layout_.page_bytes(), from.data(),
                  std::ssize(from));
}

std::vector<float> DeviceEngine::read(std::string_view handle, SequenceId id) {
  const auto which = parse_handle(handle);
  if (!which) throw std::logic_error("no handle '" + std::string(handle) + "'");
  make_copies();
  const Traffic traffic(*backend_, counters_.kv_bytes_up, counters_.kv_bytes_down);
  const Buffer& pool = handles_.at("kv_pool");
  const int64_t within = layout_.slice_offset(static_cast<int64_t>(which->layer), which->k);
  std::vector<std::byte> slice(static_cast<size_t>(layout_.slice_bytes()));
  std::vector<float> values(static_cast<size_t>(kv_.length(id) * layout_.kv_dim()));
  std::span<float> left = values;
  for (const int32_t number : kv_.page_table(id)) {
    const int64_t rows = std::min(kPageTokens, std::ssize(left) / layout_.kv_dim());
    if (rows <= 0) break;
    backend_->read(pool, number * layout_.page_bytes() + within, slice.data(), std::ssize(slice));
    const auto elements = static_cast<size_t>(rows * layout_.kv_dim());
    layout_.slice_to_rows(slice, rows, left.first(elements));
    left = left.subspan(elements);
  }
  return values;
}

// Largest first: what programs share on a device is then allocated once.
void DeviceEngine::warm(int64_t max_batch, int64_t max_past, const WarmProgress& told) {
  std::vector<BucketKey> keys;
  for (const Ladder::Range& batch : cache_.options().batch.ranges()) {
    if (batch.low > std::max<int64_t>(max_batch, 1)) break;
    for (const Ladder::Range& past : cache_.options().past.ranges()) {
      if (past.low > max_past) break;
      keys.push_back(BucketKey::of(batch.high, past.high));
      if (tells_runs(batch)) keys.push_back(BucketKey::of(batch.high, past.high, true));
    }
  }
  std::ranges::reverse(keys);
  WarmedBucket bucket;
  bucket.all = std::ssize(keys);
  for (const BucketKey key : keys) {
    const auto start = std::chrono::steady_clock::now();
    const double chosen = backend_->counters().choice_seconds;
    cache_.get(key);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    bucket.choosing = backend_->counters().choice_seconds - chosen;
    bucket.news = backend_->news();
    ++bucket.done, bucket.key = key, bucket.seconds = took.count() - bucket.choosing;
    if (told) told(bucket);
  }
}

}  // namespace

std::unique_ptr<Engine> Engine::open(const EngineOptions& options) {
  ModelConfig config = load_config(options.model_dir);
  config.rope.bf16_frequencies = options.bf16_rope_frequencies;
  config.rope.least_length = options.least_rope_length;
  const Architecture& architecture = find_architecture(config.architecture);
  auto backend = make_backend(parse_device(options.device), {.threads = options.threads,
                                                            .bf16_dot = options.dot_products,
                                                            .graphs = options.graphs,
                                                            .fused = options.fused,
                                                            .timed = options.timed,
                                                            .timed_choices = options.timed_choices,
                                                            .choices_file = options.choices_file});
  if (options.int8_weights && backend->info().device.kind != DeviceKind::cpu) {
    throw std::runtime_error("int8 weights run on the cpu only; leave them out for " +
                             options.device);
  }
  const Checkpoint checkpoint = options.random_weights
                                    ? Checkpoint::random(*options.random_weights)
                                    : Checkpoint::open(options.model_dir);
  return std::make_unique<DeviceEngine>(completed(options, config), config, architecture,
                                        std::move(backend), checkpoint);
}

}  // namespace limpet::engine
