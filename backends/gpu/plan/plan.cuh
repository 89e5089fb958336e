// A decoder on the kernels that take several ops at once: what it is made of, where its values are,
// and what else it may be done by. What is launched: layers.cuh, head.cuh; choose.cuh times it.
#pragma once
#include <array>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "backends/gpu/decoder_match.h"
#include "backends/gpu/decoder_plan.h"
#include "backends/gpu/one_row/kernel.cuh"
#include "backends/gpu/plan/products.cuh"
#include "ops/linear/weight.h"
#include "ops/paged_attention/prefill.cuh"
#include "ops/sample/draw_rows.cuh"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

// Whether warp groups' products were compiled, without which that kernel is empty.
#if defined(LIMPET_GPU_SM90A)
constexpr bool kWarpGroups = true;
#else
constexpr bool kWarpGroups = false;
#endif
// Of a block, on the chips with warp groups.
constexpr int kSharedBytes = 227 * 1024;

// The head: logits of the wanted rows, and the step that draws from them, which then knows the
// likeliest token of each.
struct Head {
  size_t step = 0;
  ValueId x = -1, weight = -1, logits = -1;
  int32_t count = -1;
  int64_t rows = 0, vocab = 0;
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

// What a step writes and reads while it is timed, in the place of sessions' KV and draws: one page,
// in which every row is the first position; and rows that are drawn greedily.
struct Practice {
  uint16_t* pool = nullptr;
  const int32_t* zeros = nullptr;  // [max(rows, max_pages)]
  const DrawSpec* draws = nullptr;
  DrawnToken* drawn = nullptr;
};

class Plan final : public DecoderPlan {
 public:
  Plan(const Program& program, const MatchedDecoder& decoder, const PlanOptions& options)
      : program_(program), m_(decoder), options_(options), way_(way_of(decoder.rows)),
        as_one_(runs_as_one()) {
    find_head();
  }

  // Whether there is a kernel for all of it; finds the candidates and places the scratch memory.
  bool fits();
  bool takes(size_t step) const override {
    return (step < m_.end && step != m_.rope_step) ||
           (head_ && (step == head_->step || step == head_->draw));
  }
  GpuError launch(size_t step, const std::vector<std::byte*>& data, GpuStream stream) override;
  void choose(const std::vector<std::byte*>& data, GpuStream stream, Timed& timed) override;
  int64_t scratch_bytes() const override { return parts_.bytes(); }
  void give_scratch(std::byte* memory) override { scratch_ = memory; }
  int64_t awaited_bytes() const override { return awaited_bytes_; }
  void give_awaited(std::byte* memory) override { awaited_ = memory; }

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
  // Null, as for all rows of the shape, while products are timed.
  const int32_t* count_of(int32_t element) const {
    return element < 0 || practice_ ? nullptr : of<const int32_t>(program_.counts) + element;
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
  bool by_vendor(Product p) const { return products_[p].by_vendor(); }
  // Rows, n and k of a product.
  VendorProduct shape_of(Product p) const;
  PagedRows paged(const MatchedLayer& l) const;
  TailArgs append_args(const MatchedLayer& l) const;

  bool runs_as_one() const;
  void find_head();
  void find_draw();
  bool find_candidates(Product p);
  void place_parts();

  GpuError layers();
  GpuError layer(size_t i);
  GpuError project(const MatchedLayer& l, size_t norm, bool normed);
  GpuError gate(const MatchedLayer& l, size_t norm, bool normed);
  GpuError add(Product p, ValueId weight, int64_t x, int64_t width, const float* following,
               size_t norm);
  GpuError norm(ValueId weight, float eps, Start start = Start::early);
  one_row::Step one_row_shapes() const;
  GpuError layers_of_one_row();
  GpuError attend(const MatchedLayer& l);
  GpuError append(const MatchedLayer& l);
  GpuError head();
  GpuError draw();
  template <Tail T>
  GpuError multiply(Product p, ValueId weight, const ProductInput& in, const TailArgs& t);
  GpuError run_vendor(Product p, int64_t x, ValueId weight, void* y);

  bool recall(std::span<const Product> of);
  bool take_known(const std::string& key, std::span<const Product> of);
  void settle(std::span<const Product> of, const std::function<GpuError()>& pass, Timed& timed);
  void time_products(bool layers, bool head, Timed& timed);
  double seconds_of(const std::function<GpuError()>& pass);
  std::string key_of(std::span<const Product> of) const;
  int64_t layers_to_time() const;

  const Program& program_;
  const MatchedDecoder m_;
  const PlanOptions options_;
  VendorProducts* vendor_ = nullptr;
  const Way way_;
  std::optional<Head> head_;
  std::array<ProductChoice, kProducts> products_{};
  Parts parts_;
  int64_t x_ = 0, scaled_ = 0, squares_ = 0, q_ = 0, attended_ = 0, gated_ = 0, raw_ = 0;
  int64_t both_ = 0, values_ = 0, tops_ = 0, rounded_ = 0, bests_ = 0;
  int64_t exchange_ = 0, awaited_bytes_ = 0;
  const bool as_one_;  // all layers as one kernel
  bool chosen_ = false;
  std::optional<Practice> practice_;
  std::byte *scratch_ = nullptr, *awaited_ = nullptr;
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
    find_draw();
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
  PagedRows rows{at<uint16_t>(q_), at<uint16_t>(attended_), of<const uint16_t>(m_.pool),
                 of<const int32_t>(m_.positions), of<const int32_t>(m_.row_sequence),
                 of<const int32_t>(m_.page_table), count_of(m_.count), static_cast<int>(m_.rows),
                 static_cast<int>(m_.heads), static_cast<int>(m_.kv_heads),
                 static_cast<int>(l.layer), static_cast<int>(value(m_.pool).shape[1]),
                 static_cast<int>(value(m_.page_table).shape[1]), static_cast<int>(l.window),
                 l.scale};
  if (practice_) {
    rows.pool = practice_->pool, rows.layer = 0, rows.layers = 1;
    rows.positions = rows.row_sequence = rows.page_table = practice_->zeros;
  }
  return rows;
}

VendorProduct Plan::shape_of(Product p) const {
  const int64_t n = m_.rows, hidden = m_.hidden, q_width = m_.heads * m_.head_dim;
  const auto shape = [](int64_t rows, int64_t outputs, int64_t k, bool f32, bool accumulate) {
    return VendorProduct{rows, outputs, k, weight_stride(k), f32, accumulate};
  };
  switch (p) {
    case kQkv: return shape(n, qkv_width(), hidden, true, false);
    case kOut: return shape(n, hidden, q_width, true, true);
    case kGateUp: return shape(n, 2 * m_.inner, hidden, false, false);
    case kDown: return shape(n, hidden, m_.inner, true, true);
    default: return shape(head_->rows, head_->vocab, hidden, true, false);
  }
}

// Few rows go to the vendor's products only where they were faster; so the fixed rules' own
// kernel comes first.
bool Plan::find_candidates(Product p) {
  const VendorProduct shape = shape_of(p);
  const Way way = way_of(shape.rows);
  ProductChoice& c = products_[p];
  if (way != Way::many) {
    const bool heads = p == kQkv && m_.layers[0].q_norm < 0;
    c = own_candidates(static_cast<int>(shape.rows), static_cast<int>(shape.n),
                       static_cast<int>(shape.k), heads ? static_cast<int>(m_.head_dim) : 2,
                       options_.processors);
  }
  if (way == Way::one || vendor_ == nullptr) return !c.all.empty();
  const std::vector<int> plans = vendor_->plans(shape);
  const size_t some = std::min<size_t>(plans.size(), way == Way::many ? 1 : plans.size());
  for (size_t i = 0; i < some; ++i) c.add(candidate_of_vendor(plans[i], i));
  return !c.all.empty();
}

// Whether every kernel of the plan takes these shapes.
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
  if (way_ != Way::one) vendor_ = options_.vendor ? options_.vendor() : nullptr;
  for (const Product p : {kQkv, kOut, kGateUp, kDown}) {
    if (!as_one_ && !find_candidates(p)) return false;
  }
  if (head_ && !find_candidates(kHead)) head_.reset();
  place_parts();
  return true;
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
  if (vendor_ != nullptr) both_ = parts_.take(4 * n * m_.inner);
  if (head_) rounded_ = parts_.take(2 * head_->rows * m_.hidden);
  if (head_ && head_->draw) bests_ = parts_.take(8 * head_->rows * std::max(kRowSlots, kParts));
  if (as_one_) {
    exchange_ = parts_.take(one_row::exchange_bytes(one_row_shapes(), options_.processors));
    return;
  }
  PagedRows any{};
  any.rows = static_cast<int>(n), any.heads = static_cast<int>(m_.heads);
  any.kv_heads = static_cast<int>(m_.kv_heads);
  any.max_pages = static_cast<int>(value(m_.page_table).shape[1]);
  if (!together()) {
    const auto bytes = split_space_bytes(any, static_cast<int>(m_.head_dim));
    awaited_bytes_ = static_cast<int64_t>(bytes);
    return;
  }
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
  if (practice_) {
    t.pool = practice_->pool, t.layer = 0, t.layers = 1, t.max_pages = 1;
    t.positions = t.row_sequence = t.page_table = practice_->zeros;
  }
  return t;
}

}  // namespace
}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
