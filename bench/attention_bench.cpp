// Paged attention alone, as decode steps run it: no model, no engine.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>

#include "backends/make_backend.h"
#include "bench/engine_bench.h"
#include "bench/engine_scene.h"

namespace limpet::bench {
namespace {

constexpr int64_t kPageTokens = 16;
constexpr int64_t kColdBytes = int64_t{2} << 30;  // no cache holds that
// Of KV in one pass, as many layers': what a pass takes to begin, some 60 us, must not count.
constexpr int64_t kPassBytes = int64_t{16} << 30;
constexpr double kTolerance = 2e-2;  // of bf16 outputs whose softmax's weights are bf16, too

struct AttentionOptions {
  std::string device = "cuda:0", points = "64x2048,32x4096,8x16384,1x8192";
  int64_t heads = 32, kv_heads = 8, head_dim = 128, window = 0, layers = 0, passes = 15;
  bool in_order = false;
};

// One point's operands on the device.
class Scene {
 public:
  Scene(Backend& backend, const AttentionOptions& o, const Point& p)
      : backend_(backend), o_(o), p_(p), max_pages_((p.context + kPageTokens - 1) / kPageTokens) {
    const int64_t layer_bytes = p.batch * max_pages_ * kPageTokens * token_bytes();
    layers_ = o.layers > 0 ? o.layers : std::clamp<int64_t>(kPassBytes / layer_bytes, 2, 256);
    pool_ = backend.allocate(layers_ * layer_bytes);
    backend.fill(*pool_, DType::bf16, 11, 1.0f);
    q_ = backend.allocate(2 * q_elements());
    backend.fill(*q_, DType::bf16, 12, 2.0f);
    out_ = backend.allocate(2 * q_elements());
    std::vector<int32_t> sequences(static_cast<size_t>(p.batch));
    std::iota(sequences.begin(), sequences.end(), 0);
    sequences_ = upload(sequences);
    const auto last = static_cast<int32_t>(p.context - 1);
    positions_ = upload(std::vector<int32_t>(sequences.size(), last));
    std::vector<int32_t> table(static_cast<size_t>(p.batch * max_pages_));
    std::iota(table.begin(), table.end(), 0);
    // Pages as a pool in use hands them out, or as a new one does.
    if (!o.in_order) std::ranges::shuffle(table, std::mt19937_64(13));
    table_ = upload(table);
  }

  int64_t layers() const { return layers_; }
  // Of one layer: the keys and values that must be read, and the rows.
  int64_t kv_bytes() const {
    const int64_t seen = o_.window > 0 ? std::min(o_.window, p_.context) : p_.context;
    return p_.batch * seen * token_bytes();
  }
  int64_t row_bytes() const { return 2 * 2 * q_elements(); }
  // Seconds of one layer; the outputs are what is checked.
  double pass() {
    const std::vector<std::byte> poison(static_cast<size_t>(out_->bytes()), std::byte{0xff});
    backend_.write(*out_, 0, poison.data(), out_->bytes());
    const int64_t before = moved();
    const auto seconds = backend_.time_attention(
        {q_.get(), pool_.get(), positions_.get(), sequences_.get(), table_.get(), out_.get(),
         p_.batch, o_.heads, o_.kv_heads, o_.head_dim, layers_, max_pages_, o_.window, scale()});
    if (!seconds) {
      throw std::runtime_error("this device runs no fused decode step of such rows and heads");
    }
    bytes_moved_ += moved() - before;
    return *seconds / static_cast<double>(layers_);
  }
  // To, from and within the device, while passes were timed.
  int64_t bytes_moved() const { return bytes_moved_; }
  // ‖got − want‖ / ‖want‖ of the last layer's outputs, against the op's plain kernel; infinite for
  // what is not finite.
  double error();

 private:
  int64_t token_bytes() const { return 2 * 2 * o_.kv_heads * o_.head_dim; }
  int64_t moved() const {
    const BackendCounters c = backend_.counters();
    return c.bytes_up + c.bytes_down + c.bytes_copied;
  }
  int64_t q_elements() const { return p_.batch * o_.heads * o_.head_dim; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(o_.head_dim)); }
  std::unique_ptr<Buffer> upload(const std::vector<int32_t>& v) {
    const auto bytes = static_cast<int64_t>(4 * v.size());
    auto buffer = backend_.allocate(bytes);
    backend_.write(*buffer, 0, v.data(), bytes);
    return buffer;
  }
  std::vector<float> read_bf16(const Buffer& buffer) {
    std::vector<uint16_t> raw(static_cast<size_t>(q_elements()));
    backend_.read(buffer, 0, raw.data(), buffer.bytes());
    std::vector<float> wide;
    for (const uint16_t v : raw) wide.push_back(f32_from_bf16(v));
    return wide;
  }

  Backend& backend_;
  const AttentionOptions& o_;
  const Point p_;
  const int64_t max_pages_;
  int64_t layers_ = 0, bytes_moved_ = 0;
  std::unique_ptr<Buffer> pool_, q_, out_, sequences_, positions_, table_;
};

double Scene::error() {
  const std::vector<float> got = read_bf16(*out_), q = read_bf16(*q_);
  const Shape rows{p_.batch, o_.heads * o_.head_dim};
  Program program{.name = "attention"};
  const auto add = [&](const char* name, DType dtype, Shape shape, ValueKind kind) {
    program.values.push_back({.name = name, .dtype = dtype, .shape = shape, .kind = kind});
    return static_cast<ValueId>(program.values.size() - 1);
  };
  ProgramStep step{.op = ops::PagedAttention{layers_ - 1, scale(), o_.window}};
  step.inputs = {add("q", DType::f32, rows, ValueKind::input),
                 add("positions", DType::i32, {p_.batch}, ValueKind::input),
                 add("sequences", DType::i32, {p_.batch}, ValueKind::input),
                 add("table", DType::i32, {p_.batch, max_pages_}, ValueKind::input),
                 add("pool", DType::bf16,
                     {p_.batch * max_pages_, layers_, 2, o_.kv_heads, kPageTokens, o_.head_dim},
                     ValueKind::handle)};
  step.outputs = {add("out", DType::f32, rows, ValueKind::output)};
  program.steps.push_back(step);
  auto wide_q = backend_.allocate(4 * q_elements()), wide_out = backend_.allocate(4 * q_elements());
  backend_.write(*wide_q, 0, q.data(), wide_q->bytes());
  const auto executable = backend_.compile(program);
  Buffer* const bound[] = {wide_q.get(), positions_.get(), sequences_.get(), table_.get(),
                           pool_.get(), wide_out.get()};
  for (ValueId i = 0; i < 6; ++i) executable->bind(i, *bound[i]);
  executable->run();
  std::vector<float> want(got.size());
  backend_.read(*wide_out, 0, want.data(), wide_out->bytes());
  double difference = 0, all = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += (1.0 * got[i] - want[i]) * (1.0 * got[i] - want[i]);
    all += 1.0 * want[i] * want[i];
  }
  return std::isfinite(difference) && all > 0 ? std::sqrt(difference / all) : INFINITY;
}

void attention_point(Backend& backend, const AttentionOptions& o, const Point& p) {
  Scene scene(backend, o, p);
  std::vector<double> seconds, rates;
  for (int64_t i = 0; i < o.passes + 2; ++i) {
    const double took = scene.pass();
    if (i >= 2) seconds.push_back(took);
    if (i % 5 == 0) rates.push_back(backend.read_bandwidth(kColdBytes));
  }
  const double error = scene.error(), bandwidth = median(rates);
  const auto bytes = static_cast<double>(scene.kv_bytes() + scene.row_bytes());
  const nlohmann::json line = {{"bench", "attention"},
                               {"device", to_string(backend.info().device)},
                               {"about", backend.info().description},
                               {"batch", p.batch},
                               {"context", p.context},
                               {"heads", o.heads},
                               {"kv_heads", o.kv_heads},
                               {"head_dim", o.head_dim},
                               {"window", o.window},
                               {"layers", scene.layers()},
                               {"seconds_per_layer", median(seconds)},
                               {"kv_bytes", scene.kv_bytes()},
                               {"bytes_moved", scene.bytes_moved()},
                               {"bytes", bytes},
                               {"read_bandwidth", bandwidth},
                               {"fraction", bytes / median(seconds) / bandwidth},
                               {"relative_error", error},
                               {"right", error <= kTolerance}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
  if (error > kTolerance) throw std::runtime_error("the outputs are wrong");
}

}  // namespace

int attention_bench(int argc, char** argv) {
  AttentionOptions o;
  CLI::App app{"Paged attention of decode rows alone, layer after layer over cold KV in shuffled\n"
               "pages; outputs are poisoned before each pass and checked after the last"};
  app.add_option("--device", o.device, "cuda:0, hip:0")->capture_default_str();
  app.add_option("--points", o.points, "batch x context, at most 64 rows")->capture_default_str();
  app.add_option("--heads", o.heads, "query heads")->capture_default_str();
  app.add_option("--kv-heads", o.kv_heads, "of which each serves as many query heads")
      ->capture_default_str();
  app.add_option("--head-dim", o.head_dim, "32, 48, 64, 80, 96, 112, 128, 160, 192 or 256")
      ->capture_default_str();
  app.add_option("--window", o.window, "tokens that a row sees; 0: all")->capture_default_str();
  app.add_option("--layers", o.layers, "of the pool; 0: as many as take 16 GiB, at most 256")
      ->capture_default_str();
  app.add_flag("--in-order", o.in_order, "pages lie one after the other, instead of in no order");
  app.add_option("--passes", o.passes, "to time")->capture_default_str()->check(
      CLI::Range(int64_t{1}, int64_t{1000}));
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  const bool whole = o.heads >= 1 && o.kv_heads >= 1 && o.heads % o.kv_heads == 0 &&
                     o.head_dim >= 1 && o.window >= 0;
  if (!whole) throw std::runtime_error("--heads must be a multiple of --kv-heads");
  Options points;
  points.points = o.points;
  const auto backend = make_backend(parse_device(o.device), {});
  for (const Point& p : points_of(points)) attention_point(*backend, o, p);
  return 0;
}

}  // namespace limpet::bench
