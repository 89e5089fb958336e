#include "backends/gpu/decoder_plan.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "backends/gpu/decoder_match.h"
#include "backends/gpu/one_row/kernel.cuh"
#include "backends/gpu/vendor_product.h"
#include "ops/embedding/embed_rows.cuh"
#include "ops/linear/skinny.cuh"
#include "ops/linear/weight.h"
#include "ops/paged_attention/prefill.cuh"
#include "ops/rms_norm/norm_rows.cuh"
#include "ops/rope_append/append_rows.cuh"
#include "ops/sample/draw_rows.cuh"
#include "ops/silu_mul/gate_rows.cuh"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

using namespace ops;

constexpr int64_t kFewRows = 64;  // as many as the skinny product takes
// Whether warp groups' products were compiled, without which that kernel is empty.
#if defined(LIMPET_GPU_SM90A)
constexpr bool kWarpGroups = true;
#else
constexpr bool kWarpGroups = false;
#endif

// f32 rows to bf16, for the head; and its rows' bests to nothing, unless null.
__global__ void round_rows(const float* from, uint16_t* to, int64_t rows, int64_t width,
                           const int32_t* count, unsigned long long* bests) {
  const int64_t all = counted_rows(count, rows) * width;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < all) to[i] = as_bf16(from[i]);
  if (bests != nullptr && i < rows) bests[i * kRowSlots] = 0;
}

// Of a block, on the chips with warp groups.
constexpr int kSharedBytes = 227 * 1024;

// Who multiplies: it follows from the rows that the bucket allows.
enum class Way { one, few, many };
Way way_of(int64_t rows) { return rows == 1 ? Way::one : rows <= kFewRows ? Way::few : Way::many; }

// The head: logits of the wanted rows, and the step that draws from them, which then knows the
// likeliest token of each.
struct Head {
  size_t step = 0;
  ValueId x = -1, weight = -1, logits = -1;
  int32_t count = -1;
  int64_t rows = 0, vocab = 0;
  int plan = -1;  // of the vendor's product
  std::optional<size_t> draw{};
};

// Parts of the scratch memory, each from a multiple of 256 bytes on.
class Parts {
 public:
  int64_t take(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += (bytes + 255) / 256 * 256;
    return at;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

class Plan final : public DecoderPlan {
 public:
  Plan(const Program& program, const MatchedDecoder& decoder, const PlanOptions& options)
      : program_(program), m_(decoder), options_(options), way_(way_of(decoder.rows)),
        as_one_(runs_as_one()) {
    find_head();
    place_parts();
  }

  bool fits();
  bool takes(size_t step) const override {
    return (step < m_.end && step != m_.rope_step) ||
           (head_ && (step == head_->step || step == head_->draw));
  }
  GpuError launch(size_t step, const std::vector<std::byte*>& data, GpuStream stream) override;
  int64_t scratch_bytes() const override { return parts_.bytes(); }
  void give_scratch(std::byte* memory) override { scratch_ = memory; }

 private:
  const ProgramValue& value(ValueId id) const { return program_.values[static_cast<size_t>(id)]; }
  template <class T>
  T* at(int64_t part) const {
    return reinterpret_cast<T*>(scratch_ + part);
  }
  template <class T>
  T* of(ValueId id) const {
    return id < 0 ? nullptr : reinterpret_cast<T*>((*data_)[static_cast<size_t>(id)]);
  }
  const int32_t* count_of(int32_t element) const {
    return element < 0 ? nullptr : of<const int32_t>(program_.counts) + element;
  }
  int64_t table_stride() const {
    return value(m_.table).layout == Layout::linear ? weight_stride(m_.hidden) : m_.hidden;
  }
  int64_t qkv_width() const { return (m_.heads + 2 * m_.kv_heads) * m_.head_dim; }
  uint64_t* squares(size_t norm) const {
    return at<uint64_t>(squares_) + static_cast<int64_t>(norm) * m_.rows * kRowSlots;
  }
  // Whose sums of squares the products keep, but for the first's.
  int64_t norms() const {
    return way_ == Way::many ? 0 : static_cast<int64_t>(2 * m_.layers.size());
  }
  // Whether attention takes many rows of a sequence together.
  bool together() const { return way_ == Way::many || (way_ == Way::few && program_.runs); }
  PagedRows paged(const MatchedLayer& l) const;
  TailArgs append_args(const MatchedLayer& l) const;

  bool runs_as_one() const;
  void find_head();
  void find_draw();
  void place_parts();
  GpuError layers();
  GpuError layer(size_t i);
  GpuError layer_by_vendor(size_t i);
  one_row::Step one_row_shapes() const;
  GpuError layers_of_one_row();
  GpuError attend(const MatchedLayer& l);
  GpuError append(const MatchedLayer& l);
  GpuError head();
  GpuError draw();
  template <Tail T>
  GpuError multiply(ValueId weight, const ProductInput& in, const TailArgs& t);

  const Program& program_;
  const MatchedDecoder m_;
  const PlanOptions options_;
  VendorProducts* vendor_ = nullptr;
  const Way way_;
  std::optional<Head> head_;
  Parts parts_;
  int64_t x_ = 0, scaled_ = 0, squares_ = 0, q_ = 0, attended_ = 0, gated_ = 0, raw_ = 0;
  int64_t both_ = 0, split_ = 0, values_ = 0, tops_ = 0, rounded_ = 0, bests_ = 0;
  int64_t exchange_ = 0;
  const bool as_one_;  // all layers as one kernel
  std::array<int, 4> plans_{-1, -1, -1, -1};  // qkv, out, gate and up, down
  std::byte* scratch_ = nullptr;
  const std::vector<std::byte*>* data_ = nullptr;
  GpuStream stream_{};
};

void Plan::find_head() {
  for (size_t i = m_.end; i < program_.steps.size(); ++i) {
    const ProgramStep& step = program_.steps[i];
    const auto* linear = std::get_if<Linear>(&step.op);
    if (linear == nullptr) continue;
    const ProgramValue &weight = value(step.inputs[1]), &logits = value(step.outputs[0]);
    if (linear->bias || linear->residual || weight.dtype != DType::bf16 ||
        weight.shape.cols() % 64 != 0 || logits.row_stride != 0) {
      return;
    }
    head_ = Head{i, step.inputs[0], step.inputs[1], step.outputs[0], step.count,
                 logits.shape.rows(), logits.shape.cols()};
    if (way_of(head_->rows) != Way::many) find_draw();
    return;
  }
}

// Only right behind the head: nothing writes the logits in between.
void Plan::find_draw() {
  const size_t next = head_->step + 1;
  if (next >= program_.steps.size()) return;
  const ProgramStep& step = program_.steps[next];
  if (std::holds_alternative<Sample>(step.op) && step.inputs[0] == head_->logits) {
    head_->draw = next;
  }
}

PagedRows Plan::paged(const MatchedLayer& l) const {
  return {at<uint16_t>(q_), at<uint16_t>(attended_), of<const uint16_t>(m_.pool),
          of<const int32_t>(m_.positions), of<const int32_t>(m_.row_sequence),
          of<const int32_t>(m_.page_table), count_of(m_.count), static_cast<int>(m_.rows),
          static_cast<int>(m_.heads), static_cast<int>(m_.kv_heads), static_cast<int>(l.layer),
          static_cast<int>(value(m_.pool).shape[1]),
          static_cast<int>(value(m_.page_table).shape[1]), static_cast<int>(l.window), l.scale};
}

// Whether every kernel of the plan takes these shapes; makes the vendor's plans.
bool Plan::fits() {
  const int64_t q_width = m_.heads * m_.head_dim;
  bool ok = kWarpGroups && has_fast_attention(static_cast<int>(m_.head_dim)) &&
            m_.heads % m_.kv_heads == 0 && m_.hidden % 64 == 0 && m_.hidden <= 8192 &&
            m_.inner % 64 == 0 && q_width % 64 == 0;
  for (const MatchedLayer& l : m_.layers) {
    ok = ok && value(l.qkv).shape.cols() == m_.hidden && value(l.out).shape.cols() == q_width;
  }
  if (!ok) return false;
  const PagedRows any{nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                      static_cast<int>(m_.rows), static_cast<int>(m_.heads),
                      static_cast<int>(m_.kv_heads)};
  const int dim = static_cast<int>(m_.head_dim);
  if (together() ? !prefill_supports(any, dim) : !split_supports(any, dim)) return false;
  if (way_ != Way::many) return true;
  vendor_ = options_.vendor ? options_.vendor() : nullptr;
  if (vendor_ == nullptr) return false;
  const auto plan = [&](int64_t n, int64_t k, bool f32, bool accumulate) {
    return vendor_->plan({m_.rows, n, k, weight_stride(k), f32, accumulate});
  };
  plans_ = {plan(qkv_width(), m_.hidden, true, false), plan(m_.hidden, q_width, true, true),
            plan(2 * m_.inner, m_.hidden, false, false), plan(m_.hidden, m_.inner, true, true)};
  if (head_ && way_of(head_->rows) == Way::many) {
    head_->plan = vendor_->plan(
        {head_->rows, head_->vocab, m_.hidden, weight_stride(m_.hidden), true, false});
    if (head_->plan < 0) head_.reset();
  }
  return std::ranges::all_of(plans_, [](int p) { return p >= 0; });
}

void Plan::place_parts() {
  const int64_t n = m_.rows, q_width = m_.heads * m_.head_dim;
  x_ = parts_.take(4 * n * m_.hidden);
  scaled_ = parts_.take(2 * n * m_.hidden);
  squares_ = parts_.take(8 * n * kRowSlots * (norms() + 1));
  q_ = parts_.take(2 * n * q_width);
  attended_ = parts_.take(2 * n * q_width);
  gated_ = parts_.take(2 * n * m_.inner);
  raw_ = parts_.take(4 * n * qkv_width());
  if (head_) rounded_ = parts_.take(2 * head_->rows * m_.hidden);
  if (head_ && head_->draw) bests_ = parts_.take(8 * head_->rows * kRowSlots);
  const int max_pages = static_cast<int>(value(m_.page_table).shape[1]);
  const int heads = static_cast<int>(m_.heads), kv_heads = static_cast<int>(m_.kv_heads);
  const int dim = static_cast<int>(m_.head_dim), rows = static_cast<int>(n);
  if (as_one_) {
    exchange_ = parts_.take(one_row::exchange_bytes(one_row_shapes(), options_.processors));
    return;
  }
  if (!together()) {
    split_ = parts_.take(
        static_cast<int64_t>(split_parts_bytes(rows, heads, kv_heads, dim, max_pages)));
    return;
  }
  if (way_ == Way::many) both_ = parts_.take(4 * n * m_.inner);
  PagedRows any{};
  any.rows = rows, any.heads = heads, any.kv_heads = kv_heads, any.max_pages = max_pages;
  const int split = prefill_split(any, options_.processors);
  if (split == 0) return;
  const int64_t all = n * m_.heads * prefill_parts(any, split);
  values_ = parts_.take(4 * all * m_.head_dim);
  tops_ = parts_.take(8 * all);
}

TailArgs Plan::append_args(const MatchedLayer& l) const {
  TailArgs t;
  t.rows = static_cast<int>(m_.rows);
  t.count = count_of(m_.count);
  t.bias = of<const float>(l.qkv_bias);
  t.heads = static_cast<int>(m_.heads);
  t.kv_heads = static_cast<int>(m_.kv_heads);
  t.head_dim = static_cast<int>(m_.head_dim);
  t.rotary = static_cast<int>(m_.rotary);
  t.layer = static_cast<int>(l.layer);
  t.layers = static_cast<int>(value(m_.pool).shape[1]);
  t.max_pages = static_cast<int>(value(m_.page_table).shape[1]);
  t.rope = of<const float>(m_.rope);
  t.rope_stride = m_.rotary;
  t.q = at<uint16_t>(q_);
  t.pool = of<uint16_t>(m_.pool);
  t.positions = of<const int32_t>(m_.positions);
  t.row_sequence = of<const int32_t>(m_.row_sequence);
  t.page_table = of<const int32_t>(m_.page_table);
  return t;
}

template <Tail T>
GpuError Plan::multiply(ValueId weight, const ProductInput& in, const TailArgs& t) {
  const Shape& shape = value(weight).shape;
  const int n = static_cast<int>(shape[0]), k = static_cast<int>(shape.cols());
  const Gemv g{of<const uint16_t>(weight), weight_stride(k), n, k, pairs_of(T, t)};
  const Launch how{stream_, Start::early};
  if (t.rows == 1 && !prefers_skinny(n, k, options_.processors)) {
    return launch_gemv<T>(g, in, t, choose_gemv(n, k, options_.processors), options_.processors,
                          how);
  }
  return launch_skinny<T>(g, in, t, choose_skinny(t.rows, n, k, options_.processors), how);
}

GpuError Plan::append(const MatchedLayer& l) {
  const AppendRows<float> a{at<float>(raw_), of<const float>(l.qkv_bias),
                            of<const float>(l.q_norm), of<const float>(l.k_norm), l.head_eps,
                            append_args(l)};
  return launch_append_rows(a, options_.warp, {stream_, Start::early});
}

GpuError Plan::attend(const MatchedLayer& l) {
  const PagedRows rows = paged(l);
  const int dim = static_cast<int>(m_.head_dim);
  const Launch how{stream_, Start::early};
  if (!together()) {
    const SplitSpace space{at<float>(split_), split_parts_of(rows.max_pages)};
    return launch_split(rows, space, dim, options_.processors, how);
  }
  const int split = prefill_split(rows, options_.processors);
  PrefillParts parts;
  if (split != 0) {
    parts = {at<float>(values_), at<float>(tops_), split, prefill_parts(rows, split)};
  }
  return launch_prefill(rows, parts, dim, how);
}

GpuError Plan::layer(size_t i) {
  const MatchedLayer& l = m_.layers[i];
  const bool last = i + 1 == m_.layers.size();
  const float mean = 1.0f / static_cast<float>(m_.hidden);
  const ProductInput normed{at<uint16_t>(scaled_), m_.hidden, squares(2 * i), mean, l.eps};
  GpuError error{};
  if (l.q_norm < 0) {
    error = multiply<Tail::append>(l.qkv, normed, append_args(l));
  } else {
    TailArgs t;
    t.rows = static_cast<int>(m_.rows), t.count = count_of(m_.count);
    t.y = at<float>(raw_), t.y_stride = qkv_width();
    error = multiply<Tail::store>(l.qkv, normed, t);
    if (error == GpuError{}) error = append(l);
  }
  if (error == GpuError{}) error = attend(l);
  if (error != GpuError{}) return error;
  TailArgs t;
  t.rows = static_cast<int>(m_.rows), t.count = count_of(m_.count);
  t.y = at<float>(x_), t.y_stride = m_.hidden;
  t.scaled = at<uint16_t>(scaled_), t.scaled_stride = m_.hidden;
  t.norm = of<const float>(l.mlp_norm), t.squares = squares(2 * i + 1);
  const int64_t q_width = m_.heads * m_.head_dim;
  const ProductInput attended{at<uint16_t>(attended_), q_width, nullptr, 0, 0};
  error = multiply<Tail::residual>(l.out, attended, t);
  if (error != GpuError{}) return error;
  TailArgs gate;
  gate.rows = t.rows, gate.count = t.count;
  gate.scaled = at<uint16_t>(gated_), gate.scaled_stride = m_.inner;
  error = multiply<Tail::gate>(
      l.gate_up, {at<uint16_t>(scaled_), m_.hidden, squares(2 * i + 1), mean, l.mlp_eps}, gate);
  if (error != GpuError{}) return error;
  t.norm = last ? nullptr : of<const float>(m_.layers[i + 1].norm);
  t.squares = squares(2 * i + 2);
  if (last) t.scaled = nullptr;
  const ProductInput gated{at<uint16_t>(gated_), m_.inner, nullptr, 0, 0};
  return multiply<Tail::residual>(l.down, gated, t);
}

one_row::Step Plan::one_row_shapes() const {
  one_row::Step a{};
  a.layers = static_cast<int>(m_.layers.size());
  a.hidden = static_cast<int>(m_.hidden);
  a.inner = static_cast<int>(m_.inner);
  a.heads = static_cast<int>(m_.heads);
  a.kv_heads = static_cast<int>(m_.kv_heads);
  a.head_dim = static_cast<int>(m_.head_dim);
  a.rotary = static_cast<int>(m_.rotary);
  a.pool_layers = static_cast<int>(value(m_.pool).shape[1]);
  a.max_pages = static_cast<int>(value(m_.page_table).shape[1]);
  return a;
}

bool Plan::runs_as_one() const {
  return kWarpGroups && kGpuTogether && way_ == Way::one && m_.heads % m_.kv_heads == 0 &&
         one_row::supports(one_row_shapes(), options_.processors, kSharedBytes);
}

GpuError Plan::layers_of_one_row() {
  one_row::Step a = one_row_shapes();
  (void)one_row::place_exchange(a, options_.processors, scratch_ + exchange_);
  const GpuError error =
      LIMPET_GPU(MemsetAsync)(scratch_ + exchange_, 0,
                              static_cast<size_t>(one_row::counter_bytes(a)), stream_);
  if (error != GpuError{}) return error;
  a.table = of<const uint16_t>(m_.table), a.table_stride = table_stride();
  a.rope = of<const float>(m_.rope);
  a.count = count_of(m_.count);
  a.token_ids = of<const int32_t>(m_.token_ids);
  a.positions = of<const int32_t>(m_.positions);
  a.row_sequence = of<const int32_t>(m_.row_sequence);
  a.page_table = of<const int32_t>(m_.page_table);
  a.pool = of<uint16_t>(m_.pool);
  a.result = of<float>(m_.result);
  for (size_t i = 0; i < m_.layers.size(); ++i) {
    const MatchedLayer& l = m_.layers[i];
    a.layer[i] = {of<const uint16_t>(l.qkv), of<const uint16_t>(l.out),
                  of<const uint16_t>(l.gate_up), of<const uint16_t>(l.down),
                  of<const float>(l.norm), of<const float>(l.mlp_norm),
                  of<const float>(l.qkv_bias), of<const float>(l.q_norm),
                  of<const float>(l.k_norm), l.eps, l.mlp_eps, l.head_eps, l.scale,
                  static_cast<int>(l.window), static_cast<int>(l.layer)};
  }
  return one_row::launch_layers(a, options_.processors, kSharedBytes, stream_);
}

GpuError Plan::layer_by_vendor(size_t i) {
  const MatchedLayer& l = m_.layers[i];
  const Launch how{stream_, Start::plain};
  const auto vendor = [&](size_t which, int64_t x, ValueId weight, int64_t y) {
    return vendor_->run(plans_[which], scratch_ + x, of<void>(weight), scratch_ + y,
                                stream_);
  };
  const auto norm = [&](ValueId weight, float eps) {
    return launch_norm_rows({at<float>(x_), m_.hidden, of<const float>(weight), eps,
                             static_cast<int>(m_.rows), static_cast<int>(m_.hidden),
                             at<uint16_t>(scaled_), count_of(m_.count)}, how);
  };
  const GpuError failed = LIMPET_GPU(ErrorUnknown);
  GpuError error = norm(l.norm, l.eps);
  if (error == GpuError{} && !vendor(0, scaled_, l.qkv, raw_)) error = failed;
  if (error == GpuError{}) error = append(l);
  if (error == GpuError{}) error = attend(l);
  if (error == GpuError{} && !vendor(1, attended_, l.out, x_)) error = failed;
  if (error == GpuError{}) error = norm(l.mlp_norm, l.mlp_eps);
  if (error == GpuError{} && !vendor(2, scaled_, l.gate_up, both_)) error = failed;
  if (error == GpuError{}) {
    error = launch_gate_rows(at<uint16_t>(both_), at<uint16_t>(gated_), static_cast<int>(m_.rows),
                             static_cast<int>(m_.inner), count_of(m_.count), how);
  }
  if (error == GpuError{} && !vendor(3, gated_, l.down, x_)) error = failed;
  return error;
}

GpuError Plan::layers() {
  if (as_one_) return layers_of_one_row();
  GpuError error = launch_embed(
      {of<const uint16_t>(m_.table), table_stride(), of<const int32_t>(m_.token_ids),
       count_of(m_.count), static_cast<int>(m_.rows), static_cast<int>(m_.hidden),
       at<float>(x_), at<uint16_t>(scaled_), of<const float>(m_.layers[0].norm), squares(0),
       squares(1), static_cast<int>(norms() * m_.rows * kRowSlots)},
      {stream_, Start::plain});
  for (size_t i = 0; i < m_.layers.size() && error == GpuError{}; ++i) {
    error = way_ == Way::many ? layer_by_vendor(i) : layer(i);
  }
  if (error != GpuError{}) return error;
  // To where the program's other steps look for it.
  return LIMPET_GPU(MemcpyAsync)(of<void>(m_.result), at<void>(x_),
                                 static_cast<size_t>(4 * m_.rows * m_.hidden),
                                 LIMPET_GPU(MemcpyDeviceToDevice), stream_);
}

GpuError Plan::head() {
  const Head& h = *head_;
  const int64_t all = h.rows * m_.hidden;
  const int32_t* count = count_of(h.count);
  round_rows<<<static_cast<unsigned>((all + 255) / 256), 256, 0, stream_>>>(
      of<const float>(h.x), at<uint16_t>(rounded_), h.rows, m_.hidden, count,
      h.draw ? at<unsigned long long>(bests_) : nullptr);
  if (const GpuError error = LIMPET_GPU(GetLastError)(); error != GpuError{}) return error;
  if (way_of(h.rows) == Way::many) {
    const bool ran = vendor_->run(h.plan, scratch_ + rounded_, of<void>(h.weight),
                                          of<void>(h.logits), stream_);
    return ran ? GpuError{} : LIMPET_GPU(ErrorUnknown);
  }
  TailArgs t;
  t.rows = static_cast<int>(h.rows), t.count = count;
  t.y = of<float>(h.logits), t.y_stride = h.vocab;
  const ProductInput rounded{at<uint16_t>(rounded_), m_.hidden, nullptr, 0, 0};
  if (!h.draw) return multiply<Tail::store>(h.weight, rounded, t);
  t.best = at<unsigned long long>(bests_);
  return multiply<Tail::best>(h.weight, rounded, t);
}

GpuError Plan::draw() {
  const ProgramStep& step = program_.steps[*head_->draw];
  const ProgramValue& context = value(step.inputs[2]);
  const DrawRows rows{of<const float>(head_->logits), head_->vocab,
                      static_cast<int32_t>(head_->vocab),
                      reinterpret_cast<const DrawSpec*>(of<int32_t>(step.inputs[1])),
                      of<uint32_t>(step.inputs[2]), context.shape.rows(),
                      reinterpret_cast<DrawnToken*>(of<int32_t>(step.outputs[0])),
                      value(step.outputs[0]).shape.rows(), count_of(step.count)};
  return launch_draws(rows, Bests{at<uint64_t>(bests_), 1, kRowSlots, true}, stream_);
}

GpuError Plan::launch(size_t step, const std::vector<std::byte*>& data, GpuStream stream) {
  data_ = &data;
  stream_ = stream;
  if (head_ && step == head_->step) return head();
  if (head_ && step == head_->draw) return draw();
  // The rope table's step must have run: the layers go where the last of their steps was.
  return step + 1 == m_.end ? layers() : GpuError{};
}

}  // namespace

std::unique_ptr<DecoderPlan> DecoderPlan::make(const Program& program,
                                               const PlanOptions& options) {
  const auto decoder = match_decoder(program);
  if (!decoder) return nullptr;
  auto plan = std::make_unique<Plan>(program, *decoder, options);
  if (!plan->fits()) return nullptr;
  return plan;
}

bool time_attention(const RowsAttention& shape, const RowsInMemory& at, int processors,
                    GpuStream stream, Clock& clock) {
  const auto whole = [](const std::byte* p) { return reinterpret_cast<const int32_t*>(p); };
  const int rows = static_cast<int>(shape.rows), heads = static_cast<int>(shape.heads);
  const int kv_heads = static_cast<int>(shape.kv_heads), dim = static_cast<int>(shape.head_dim);
  const int max_pages = static_cast<int>(shape.max_pages);
  PagedRows a{reinterpret_cast<const uint16_t*>(at.q), reinterpret_cast<uint16_t*>(at.out),
              reinterpret_cast<const uint16_t*>(at.pool), whole(at.positions),
              whole(at.row_sequence), whole(at.page_table), nullptr, rows, heads, kv_heads, 0,
              static_cast<int>(shape.layers), max_pages, static_cast<int>(shape.window),
              shape.scale};
  if (rows > kFewRows || !split_supports(a, dim)) return false;
  const DeviceMemory parts(
      static_cast<int64_t>(split_parts_bytes(rows, heads, kv_heads, dim, max_pages)));
  const SplitSpace space{reinterpret_cast<float*>(parts.data()), split_parts_of(max_pages)};
  clock.start(stream);
  for (; a.layer < a.layers; ++a.layer) {
    const Launch how{stream, a.layer == 0 ? Start::plain : Start::early};
    gpu_check(launch_split(a, space, dim, processors, how), "attention");
  }
  clock.stop(stream);
  (void)clock.seconds();  // the memory above is in use until then
  return true;
}

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
