// A model on a device, with the KV of many sequences resident between calls.
//
//   auto engine = Engine::open({.model_dir = "models/limpet-tiny", .kv_pages = 256});
//   SequenceId s = engine->kv().create(0);
//   engine->kv().reserve(s, prompt.size());
//   StepResult r = engine->step({{s, prompt, Want::last}});   // r.row(0): logits after the prompt
//
// A step is a ragged batch of token rows; sequences in it may have any pasts. On the CPU the bits
// of a row's result depend on its sequence's tokens alone: not on the batch, on how a prompt was
// cut in chunks, on buckets or on threads.
//
// One owner, one thread. What cannot load throws std::runtime_error with a message that says what
// to do; what is expected while running (no page reserved, too long) is StepResult::error.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/binding_state.h"
#include "engine/bucket.h"
#include "engine/kv_cache.h"
#include "engine/sampling.h"
#include "engine/token.h"

namespace limpet::engine {

enum class Precision : uint8_t { f32, bf16 };  // of weights and KV; arithmetic results are f32

struct EngineOptions {
  std::string model_dir{};
  std::string device = "cpu";  // "cpu", "cuda:0", …
  Precision precision = Precision::bf16;
  // Matrices are kept as 8-bit integers with a scale for each row, made while loading; KV is as
  // `precision` says. CPU only.
  bool int8_weights = false;
  int threads = 0;          // 0: as many as the device offers
  int64_t kv_pages = 0;     // size of the KV pool in pages, or, when 0,
  int64_t kv_bytes = 0;     // in bytes; both 0: room for 4 × the model's context, at most 1 GiB
  bool share_prefixes = true;
  int64_t max_rows = 512;   // token rows in one step
  int64_t max_sequences = 64;  // sequences in one step
  int64_t max_wanted = 0;      // rows wanted back from one step; 0: max_rows, or what fits 64 MiB
  BucketOptions buckets{};
  int64_t compiled_bytes = 256 << 20;  // budget of the compile cache's arenas
  // Rotary frequencies rounded to bf16, as a model cast to bf16 as a whole has them. Wrong for
  // serving (positions drift); for comparing with a reference that was computed so.
  bool bf16_rope_frequencies = false;
  // Dynamic rotary scaling: rows are rotated as in a sequence of at least this length. For
  // comparing with a reference that prefills a long prompt in one go (engine/rope.h); 0 serves.
  int64_t least_rope_length = 0;
  bool dot_products = true;  // of the processor, where it has them; false to compare without
  bool graphs = true;  // replay programs as captured graphs where the device can
  bool fused = true;   // let several ops run as one kernel where the device can
  // Of a GPU: how its kernels for products are chosen, and where that is kept (BackendOptions).
  bool timed_choices = true;
  std::string choices_file{};
  bool timed = false;  // for benches: measure EngineCounters::busy_seconds and idle_seconds
  // For benches: weights drawn from this seed; model_dir needs only its config.json.
  std::optional<uint64_t> random_weights{};
};

struct EngineInfo {
  std::string architecture, device;
  std::string about;  // the device in words
  std::string lacks;  // what would make it faster and is not there; empty: nothing
  Precision precision = Precision::bf16;
  bool int8_weights = false;
  int64_t vocab = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t max_context = 0;        // tokens of a sequence that the model and the KV pool allow
  std::vector<Token> eos;         // from generation_config.json, else config.json
  uint64_t fingerprint = 0;       // of config and weights (by name, shape, samples) and precision
  int64_t page_bytes = 0;         // one page of KV, all layers
  uint64_t kv_layout = 0;         // of a page's bytes and of the model that gave them; not 0
  int64_t weight_bytes = 0;       // on the device, packed
  int64_t prediction_layers = 0;  // multi-token prediction layers loaded
  bool resident_kv = false;       // supports_resident_kv of the device's kind
  bool runs_ahead = false;  // submit() returns before the step is done: worth going on from
};

// What a row group wants back.
enum class Want : uint8_t { nothing, last, all };
enum class ReadBack : uint8_t { logits, hidden };  // hidden: after the final norm

// `tokens` are appended to the sequence, whose kv().reserve() has made room for them.
struct StepRow {
  SequenceId sequence{};
  std::span<const Token> tokens{};
  Want want = Want::last;
};

struct StepResult {
  std::string error;               // not empty: nothing has advanced
  int64_t rows = 0, width = 0;     // of the slab: wanted rows × (vocab or hidden)
  std::span<const float> values;   // [rows, width], valid until the next step
  std::vector<int64_t> first;      // of each StepRow: its first row in the slab
  bool ok() const { return error.empty(); }
  std::span<const float> row(int64_t i) const {
    return values.subspan(static_cast<size_t>(i * width), static_cast<size_t>(width));
  }
};

// `tokens` are appended as by a StepRow, and after them a token may be drawn on the device.
struct DrawRow {
  SequenceId sequence{};
  std::span<const Token> tokens{};
  std::optional<SamplingOptions> draw{};
  int64_t position = 0;  // of the token that is drawn
};

// A sequence's KV in host memory, in float32 (which holds bf16 exactly).
struct HostKv {
  struct Layer {
    std::vector<float> k{}, v{};  // [rows, kv_dim]
  };
  int64_t rows = 0;    // may exceed the tokens they stand for: padding up to a bucket
  int64_t kv_dim = 0;  // kv_heads * head_dim
  std::vector<Layer> layers{};
};

struct HostMove {
  int32_t pool_page = 0, host_page = 0;
};

// Bytes are what the backend has counted as they moved.
struct EngineCounters {
  int64_t steps = 0, rows = 0;           // steps that succeeded, and their rows
  int64_t bytes_up = 0, bytes_down = 0;  // all that crossed to and from the device in step()
  int64_t kv_bytes_up = 0;      // by install(), write_page(), begin_moves()
  int64_t kv_bytes_down = 0;    // by sync_to_host(), read(), read_page(), begin_moves()
  int64_t kv_bytes_moved = 0;   // within the device: copies of pages
  int64_t weight_bytes_up = 0;  // all other that went up: weights, while they are loaded
  int64_t weight_bytes_allocated = 0;  // on the device
  int64_t compiles = 0, compile_hits = 0, compile_evictions = 0;
  // As BackendCounters.
  int64_t graph_launches = 0, eager_runs = 0, captures = 0, fused_programs = 0;
  double capture_seconds = 0;
  int64_t choices_timed = 0;
  double choice_seconds = 0;
  double busy_seconds = 0, idle_seconds = 0;
};

// One bucket of a warm-up, the done-th of `all`.
struct WarmedBucket {
  int64_t done = 0, all = 0;
  BucketKey key;         // its upper bounds
  double seconds = 0;  // to compile, bind and, on a device that can, capture it
  double choosing = 0;  // besides: to choose its kernels, in the first bucket of so many rows
  std::vector<std::string> news{};  // lines for a log: what was chosen
};

class Engine {
 public:
  static std::unique_ptr<Engine> open(const EngineOptions& options);
  virtual ~Engine() = default;

  virtual const EngineInfo& info() const = 0;
  virtual KvCache& kv() = 0;
  virtual EngineCounters counters() const = 0;

  // Writes the rows' KV, commits their tokens, returns what was wanted.
  virtual StepResult step(std::span<const StepRow> rows, ReadBack what = ReadBack::logits) = 0;
  StepResult step(std::initializer_list<StepRow> rows, ReadBack what = ReadBack::logits) {
    return step(std::span<const StepRow>(rows.begin(), rows.size()), what);
  }

  // ---- Steps that draw on the device, so that the host learns tokens one step late ----
  // At most two are in flight; step() must wait until none is. What is wrong is said before
  // anything is done.

  // Begins a step. Its tokens are committed by collect().
  virtual std::string submit(std::span<const DrawRow> rows) = 0;
  // Begins the step after the one in flight, whose rows have appended one token each and draw one:
  // its rows `from` (ascending) once more, each with the token drawn for it, which the host need
  // not know. Pages are reserved for 2 tokens more than are committed.
  virtual std::string submit_next(std::span<const int32_t> from) = 0;
  // Waits for the oldest step in flight. Commits the tokens of its rows `keep`; the others are as
  // if they had never run, except that submit_next() may have gone on from them. One result a row;
  // of a row that draws nothing it means nothing.
  virtual std::vector<Sampled> collect(std::span<const int32_t> keep) = 0;

  // Host KV becomes resident under an empty sequence: its first tokens.size() rows. Reserves and
  // commits. An error says why nothing was done (no pages, wrong shape).
  virtual std::string install(SequenceId id, std::span<const Token> tokens, const HostKv& kv) = 0;
  // The sequence's KV, exactly length(id) rows.
  virtual HostKv sync_to_host(SequenceId id) = 0;

  // One page of the pool as it stands on the device, all layers: info().page_bytes of it. What one
  // engine has read another of the same info().kv_layout may write, and no bit differs.
  virtual void read_page(int32_t page, std::span<std::byte> to) = 0;
  virtual void write_page(int32_t page, std::span<const std::byte> from) = 0;

  // ---- Pages of host memory below the pool (pinned where the device has its own) ----
  // Once. std::runtime_error: there is not so much.
  virtual void make_host_pages(int64_t pages) = 0;
  virtual std::span<std::byte> host_page(int32_t page) = 0;
  // Begins to copy pages between the pool and host memory, behind the steps so far and beside those
  // that follow. Until they are done nobody may write what they read, nor touch what they write:
  // whoever calls keeps the pages. Their number; in each direction they are done in its order.
  virtual uint64_t begin_moves(bool to_device, std::span<const HostMove> moves) = 0;
  virtual bool moves_done(uint64_t number) = 0;

  // The persistent handles, by name: past_k_0, past_v_0, past_k_1, … They are laid out in pages,
  // so reading one is reading a sequence's rows of it: [length, kv_dim].
  virtual bool has(std::string_view handle) const = 0;
  virtual std::vector<float> read(std::string_view handle, SequenceId id) = 0;

  // Which bucket the handles were last laid out for. With pages nothing depends on it; it tells
  // that a bucket was crossed.
  virtual const BindingState& binding() const = 0;
  virtual void reset_binding() = 0;
  virtual void reset_after_block() = 0;

  // Compiles the programs of every bucket up to these bounds now, the largest first, so that no
  // step waits for it; `told` after each. std::runtime_error when there is no memory for one.
  using WarmProgress = std::function<void(const WarmedBucket&)>;
  virtual void warm(int64_t max_batch, int64_t max_past, const WarmProgress& told = {}) = 0;

  // ---- For benches ----
  // Random KV in every page, so that what is read is neither constant nor computed.
  virtual void fill_kv(uint64_t seed) = 0;
  // Of the device, as Backend::read_bandwidth().
  virtual double read_bandwidth(int64_t bytes) = 0;
};

// Rows 0 … past_len − new_rows − 1 of a bucket-padded buffer [upper + new_rows, dim], and then the
// `new_rows` that stand at row `upper`. An error value (nullopt) when the lengths do not fit.
std::optional<std::vector<float>> compact(std::span<const float> buffer, int64_t dim,
                                          int64_t upper, int64_t past_len, int64_t new_rows);

}  // namespace limpet::engine
