// A plan's layers: by products and attention one after the other, or, for one row, as one kernel.
#pragma once
#include "backends/gpu/plan/plan.cuh"
#include "ops/embedding/embed_rows.cuh"
#include "ops/rms_norm/norm_rows.cuh"
#include "ops/rope_append/append_rows.cuh"
#include "ops/silu_mul/gate_rows.cuh"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {
namespace {

template <Tail T>
GpuError Plan::multiply(Product p, ValueId weight, const ProductInput& in, const TailArgs& t) {
  const Shape& shape = value(weight).shape;
  const int n = static_cast<int>(shape[0]), k = static_cast<int>(shape.cols());
  const Gemv g{of<const uint16_t>(weight), weight_stride(k), n, k, pairs_of(T, t)};
  return limpet::multiply<T>(products_[p].now(), g, in, t, options_.processors, stream_);
}

GpuError Plan::run_vendor(Product p, int64_t x, ValueId weight, void* y) {
  return vendor_->run(products_[p].now().plan, scratch_ + x, of<void>(weight), y, stream_);
}

GpuError Plan::norm(ValueId weight, float eps, Start start) {
  return launch_norm_rows({at<float>(x_), m_.hidden, of<const float>(weight), eps,
                           static_cast<int>(m_.rows), static_cast<int>(m_.hidden),
                           at<uint16_t>(scaled_), count_of(m_.count)},
                          {stream_, start});
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
    return launch_split(rows, split_space(awaited_, rows, dim), dim, options_.processors, how);
  }
  const int split = prefill_split(rows, options_.processors);
  PrefillParts parts;
  if (split != 0) {
    parts = {at<float>(values_), at<float>(tops_), split, prefill_parts(rows, split)};
  }
  return launch_prefill(rows, parts, dim, how);
}

// normed: the rows have their factor 1 / rms.
GpuError Plan::project(const MatchedLayer& l, size_t norm, bool normed) {
  const float mean = 1.0f / static_cast<float>(m_.hidden);
  const ProductInput x{at<uint16_t>(scaled_), m_.hidden, normed ? nullptr : squares(norm), mean,
                       l.eps};
  if (!by_vendor(kQkv) && l.q_norm < 0) {
    return multiply<Tail::append>(kQkv, l.qkv, x, append_args(l));
  }
  TailArgs t;
  t.rows = static_cast<int>(m_.rows), t.count = count_of(m_.count);
  t.y = at<float>(raw_), t.y_stride = qkv_width();
  const GpuError error = by_vendor(kQkv) ? run_vendor(kQkv, scaled_, l.qkv, at<void>(raw_))
                                         : multiply<Tail::store>(kQkv, l.qkv, x, t);
  return error == GpuError{} ? append(l) : error;
}

GpuError Plan::gate(const MatchedLayer& l, size_t norm, bool normed) {
  const int rows = static_cast<int>(m_.rows);
  const int32_t* count = count_of(m_.count);
  if (by_vendor(kGateUp)) {
    const GpuError error = run_vendor(kGateUp, scaled_, l.gate_up, at<void>(both_));
    if (error != GpuError{}) return error;
    return launch_gate_rows(at<uint16_t>(both_), at<uint16_t>(gated_), rows,
                            static_cast<int>(m_.inner), count, {stream_, Start::early});
  }
  TailArgs t;
  t.rows = rows, t.count = count;
  t.scaled = at<uint16_t>(gated_), t.scaled_stride = m_.inner;
  const ProductInput x{at<uint16_t>(scaled_), m_.hidden, normed ? nullptr : squares(norm),
                       1.0f / static_cast<float>(m_.hidden), l.mlp_eps};
  return multiply<Tail::gate>(kGateUp, l.gate_up, x, t);
}

// The residual stream plus x [rows, width] times the weight; with a norm that follows also
// bf16(sum * norm), and its squares.
GpuError Plan::add(Product p, ValueId weight, int64_t x, int64_t width, const float* following,
                   size_t norm) {
  if (by_vendor(p)) return run_vendor(p, x, weight, at<void>(x_));
  TailArgs t;
  t.rows = static_cast<int>(m_.rows), t.count = count_of(m_.count);
  t.y = at<float>(x_), t.y_stride = m_.hidden;
  if (following != nullptr) {
    t.scaled = at<uint16_t>(scaled_), t.scaled_stride = m_.hidden;
    t.norm = following, t.squares = squares(norm);
  }
  return multiply<Tail::residual>(p, weight, {at<uint16_t>(x), width, nullptr, 0, 0}, t);
}

// Norms are launches of their own before and after the vendor's products; else the products that
// write the residual stream make them for those that read it (tail.cuh).
GpuError Plan::layer(size_t i) {
  const MatchedLayer& l = m_.layers[i];
  const bool last = i + 1 == m_.layers.size();
  const bool norms_first = by_vendor(kQkv) || by_vendor(kDown);
  const bool norms_between = by_vendor(kGateUp) || by_vendor(kOut);
  const bool normed = by_vendor(kQkv) || (norms_first && i > 0);  // the first rows are embedded
  GpuError error = normed ? norm(l.norm, l.eps) : GpuError{};
  if (error == GpuError{}) error = project(l, 2 * i, normed);
  if (error == GpuError{}) error = attend(l);
  if (error == GpuError{}) {
    error = add(kOut, l.out, attended_, m_.heads * m_.head_dim,
                norms_between ? nullptr : of<const float>(l.mlp_norm), 2 * i + 1);
  }
  if (error == GpuError{} && norms_between) error = norm(l.mlp_norm, l.mlp_eps);
  if (error == GpuError{}) error = gate(l, 2 * i + 1, norms_between);
  if (error != GpuError{}) return error;
  const bool follows = !last && !norms_first;
  return add(kDown, l.down, gated_, m_.inner,
             follows ? of<const float>(m_.layers[i + 1].norm) : nullptr, 2 * i + 2);
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
  const int64_t bytes = one_row::place_exchange(a, options_.processors, scratch_ + exchange_);
  const GpuError error =
      LIMPET_GPU(MemsetAsync)(scratch_ + exchange_, 0, static_cast<size_t>(bytes), stream_);
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

GpuError Plan::layers() {
  if (as_one_) return layers_of_one_row();
  GpuError error = launch_embed(
      {of<const uint16_t>(m_.table), table_stride(), of<const int32_t>(m_.token_ids),
       count_of(m_.count), static_cast<int>(m_.rows), static_cast<int>(m_.hidden),
       at<float>(x_), at<uint16_t>(scaled_), of<const float>(m_.layers[0].norm), squares(0),
       squares(1), static_cast<int>(norms() * m_.rows * kRowSlots)},
      {stream_, Start::plain});
  for (size_t i = 0; i < m_.layers.size() && error == GpuError{}; ++i) {
    error = layer(i);
  }
  if (error != GpuError{}) return error;
  // To where the program's other steps look for it.
  return LIMPET_GPU(MemcpyAsync)(of<void>(m_.result), at<void>(x_),
                                 static_cast<size_t>(4 * m_.rows * m_.hidden),
                                 LIMPET_GPU(MemcpyDeviceToDevice), stream_);
}

}  // namespace
}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
