// A decoder of a real model's shapes with random weights, made of the fast kernels alone: what the
// bench of those kernels runs. Nothing here is part of the engine.
#pragma once
#include "ops/embedding/embed_rows.cuh"
#include "ops/linear/skinny.cuh"
#include "backends/gpu/vendor_product.h"
#include "ops/paged_attention/prefill.cuh"
#include "ops/rms_norm/norm_rows.cuh"
#include "ops/rope_append/append_rows.cuh"
#include "ops/silu_mul/gate_rows.cuh"
#include "tests/ops/gpu_host.cuh"

namespace limpet::gpu_bench {
using namespace limpet::ops;
using gpu_test::Device;
using gpu_test::must;

struct Shapes {
  const char* name;
  int hidden, inter, heads, kv_heads, dim, layers, vocab;
  bool head_norm, bias;
  int qkv() const { return (heads + 2 * kv_heads) * dim; }
};
constexpr Shapes kModels[] = {
    {"llama-3.1-8b", 4096, 14336, 32, 8, 128, 32, 128256, false, false},
    {"llama-3.2-1b", 2048, 8192, 32, 8, 64, 16, 128256, false, false},
    {"qwen3-0.6b", 1024, 3072, 16, 8, 128, 28, 151936, true, false},
    {"qwen2.5-7b", 3584, 18944, 28, 4, 128, 28, 152064, false, true},
};

__global__ void fill_random(uint16_t* to, size_t n, float amplitude, uint32_t seed) {
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n / 2;
       i += size_t{gridDim.x} * blockDim.x) {
    uint64_t h = (i + (uint64_t{seed} << 40)) * 0x9E3779B97F4A7C15ull;
    h = (h ^ h >> 31) * 0xBF58476D1CE4E5B9ull;
    h ^= h >> 29;
    const float a = static_cast<float>(static_cast<int32_t>(h)) * 0x1p-31f;
    const float b = static_cast<float>(static_cast<int32_t>(h >> 32)) * 0x1p-31f;
    reinterpret_cast<uint32_t*>(to)[i] = pack_bf16(amplitude * a, amplitude * b);
  }
}
// The chosen tokens become the next ones.
__global__ void take_best(const unsigned long long* best, int32_t* ids, int rows) {
  await_previous();
  const int i = static_cast<int>(threadIdx.x);
  if (i < rows) ids[i] = static_cast<int32_t>(~static_cast<uint32_t>(best[i * kRowSlots]));
}

enum Kind { kQkv, kOut, kGateUp, kDown, kHead, kKinds };
constexpr const char* kKindNames[] = {"qkv", "out", "gate_up", "down", "head"};
struct Cut {
  bool skinny = false;
  GemvCut gemv;
  SkinnyCut few;
};
struct Plan {
  Cut cuts[kKinds];
};

class Decoder {
 public:
  const Shapes m;
  const int rows, past, max_pages, processors;
  GpuStream stream{};
  Device<uint16_t> qkv_w, out_w, gate_w, down_w, head_w, pool, scaled, q, att, gated, wide_rows;
  Device<float> norms, head_norms, biases, x, rope, raw, values, tops;
  Device<uint32_t> parts;  // SplitSpace, as poisoned
  Device<uint64_t> sums;  // of each norm, then the bests
  Device<int32_t> ids, positions, sequence, table, count;

  Decoder(const Shapes& shapes, int n, int sequences, int past_tokens, int processor_count)
      : m(shapes), rows(n), past(past_tokens),
        max_pages((past_tokens + n / sequences + 15) / 16 + 1), processors(processor_count),
        qkv_w(size_t{1} * m.layers * m.qkv() * m.hidden),
        out_w(size_t{1} * m.layers * m.hidden * m.heads * m.dim),
        gate_w(size_t{2} * m.layers * m.inter * m.hidden),
        down_w(size_t{1} * m.layers * m.hidden * m.inter), head_w(size_t{1} * m.vocab * m.hidden),
        pool(size_t{2} * sequences * max_pages * m.layers * m.kv_heads * 16 * m.dim),
        scaled(size_t{1} * n * m.hidden), q(size_t{1} * n * m.heads * m.dim),
        att(size_t{1} * n * m.heads * m.dim), gated(size_t{1} * n * m.inter),
        wide_rows(size_t{1} * n * std::max(2 * m.inter, m.qkv())), x(size_t{1} * n * m.hidden),
        raw(size_t{1} * n * m.qkv()), sums(size_t{1} * (2 * m.layers + 2) * n * kRowSlots) {
    must(LIMPET_GPU(StreamCreateWithFlags)(&stream, LIMPET_GPU(StreamNonBlocking)), "stream");
    fill(qkv_w, std::sqrt(3.0f / m.hidden)), fill(out_w, std::sqrt(3.0f / (m.heads * m.dim)));
    fill(gate_w, std::sqrt(3.0f / m.hidden)), fill(down_w, 2 * std::sqrt(3.0f / m.inter));
    fill(head_w, std::sqrt(3.0f / m.hidden)), fill(pool, 1.0f);
    gpu_test::Random random(1);
    norms = Device<float>(random.f32(size_t{1} * (2 * m.layers + 1) * m.hidden, 0.25, 1));
    head_norms = Device<float>(random.f32(2 * m.dim, 0.25, 1));
    biases = Device<float>(random.f32(m.qkv(), 0.1));
    const int each = n / sequences;
    std::vector<int32_t> p, s, t, i;
    std::vector<float> r;
    for (int row = 0; row < n; ++row) {
      s.push_back(row / each), p.push_back(past + row % each), i.push_back(row * 7919 % m.vocab);
      for (int j = 0; j < m.dim; ++j) {
        const double angle = p.back() * std::pow(5e5, -2.0 * (j % (m.dim / 2)) / m.dim);
        r.push_back(static_cast<float>(j < m.dim / 2 ? std::cos(angle) : std::sin(angle)));
      }
    }
    for (int page = 0; page < sequences * max_pages; ++page) t.push_back(page);
    uint64_t state = 12345;  // scattered, as after a while of serving
    for (size_t k = t.size(); k > 1; --k) {
      state = state * 6364136223846793005ull + 1;
      std::swap(t[k - 1], t[(state >> 33) % k]);
    }
    rope = Device<float>(r), positions = Device<int32_t>(p), sequence = Device<int32_t>(s);
    table = Device<int32_t>(t), ids = Device<int32_t>(i);
    count = Device<int32_t>(std::vector<int32_t>{n});
    sums.fill(0);
    const PagedRows a = attention(0);
    if (n <= kSplitRows) {
      parts = Device<uint32_t>(split_space_bytes(a, m.dim) / 4);
    }
    const int split = prefill_split(a, processors);
    if (split != 0) {
      const size_t all = size_t{1} * n * m.heads * prefill_parts(a, split);
      values = Device<float>(all * m.dim), tops = Device<float>(all * 2);
    }
  }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  uint64_t* squares(int norm) const { return sums.get() + size_t{1} * norm * rows * kRowSlots; }
  unsigned long long* best() const {
    return reinterpret_cast<unsigned long long*>(squares(2 * m.layers + 1));
  }
  const float* norm(int i) const { return norms.get() + size_t{1} * i * m.hidden; }
  PagedRows attention(int layer) const {
    return {q.get(), att.get(), pool.get(), positions.get(), sequence.get(), table.get(),
            count.get(), rows, m.heads, m.kv_heads, layer, m.layers, max_pages, 0,
            static_cast<float>(1 / std::sqrt(static_cast<double>(m.dim)))};
  }
  TailArgs append_args(int layer) const {
    TailArgs t;
    t.rows = rows, t.count = count.get(), t.bias = m.bias ? biases.get() : nullptr;
    t.heads = m.heads, t.kv_heads = m.kv_heads, t.head_dim = t.rotary = m.dim, t.layer = layer;
    t.layers = m.layers, t.max_pages = max_pages, t.rope = rope.get(), t.rope_stride = m.dim;
    t.q = q.get(), t.pool = pool.get(), t.positions = positions.get();
    t.row_sequence = sequence.get(), t.page_table = table.get();
    return t;
  }
  double weight_bytes(Kind kind) const {
    const double h = m.hidden;
    switch (kind) {
      case kQkv: return 2 * h * m.qkv();
      case kOut: return 2 * h * m.heads * m.dim;
      case kGateUp: return 4 * h * m.inter;
      case kDown: return 2 * h * m.inter;
      default: return 2 * h * m.vocab;
    }
  }
  double kv_bytes() const {  // of one layer, each sequence's read once
    double bytes = 0;
    const auto p = positions.read(), s = sequence.read();
    for (int i = 0; i < rows; ++i) {
      if (i + 1 == rows || s[i + 1] != s[i]) bytes += 4.0 * m.kv_heads * m.dim * (p[i] + 1);
    }
    return bytes;
  }

  void project(Kind kind, int layer, const Cut& cut, Start start) const {
    const auto l = static_cast<size_t>(layer);
    TailArgs t = kind == kQkv && !m.head_norm ? append_args(layer) : TailArgs{};
    t.rows = rows, t.count = count.get();
    const ProductInput normed{scaled.get(), m.hidden, nullptr, 1.0f / m.hidden, 1e-5f};
    ProductInput in = normed;
    if (kind == kOut || kind == kDown) {
      const int next = 2 * layer + (kind == kOut ? 1 : 2);
      t.y = x.get(), t.y_stride = m.hidden, t.scaled = scaled.get(), t.scaled_stride = m.hidden;
      t.norm = norm(next), t.squares = squares(next);
    }
    switch (kind) {
      case kQkv:
        in.squares = squares(2 * layer);
        if (m.head_norm) {
          t.y = raw.get(), t.y_stride = m.qkv();
          go<Tail::store>(qkv_w.get() + l * m.qkv() * m.hidden, m.qkv(), m.hidden, in, t, cut,
                          start);
        } else {
          go<Tail::append>(qkv_w.get() + l * m.qkv() * m.hidden, m.qkv(), m.hidden, in, t, cut,
                           start);
        }
        break;
      case kOut:
        in = {att.get(), m.heads * m.dim, nullptr, 0, 0};
        go<Tail::residual>(out_w.get() + l * m.hidden * m.heads * m.dim, m.hidden, m.heads * m.dim,
                           in, t, cut, start);
        break;
      case kGateUp:
        in.squares = squares(2 * layer + 1);
        t.scaled = gated.get(), t.scaled_stride = m.inter;
        go<Tail::gate>(gate_w.get() + l * 2 * m.inter * m.hidden, 2 * m.inter, m.hidden, in, t, cut,
                       start);
        break;
      case kDown:
        in = {gated.get(), m.inter, nullptr, 0, 0};
        go<Tail::residual>(down_w.get() + l * m.hidden * m.inter, m.hidden, m.inter, in, t, cut,
                           start);
        break;
      default:
        in.squares = squares(2 * m.layers);
        t.best = best();
        go<Tail::best>(head_w.get(), m.vocab, m.hidden, in, t, cut, start);
    }
  }
  void attend(int layer, Start start) const {
    const PagedRows a = attention(layer);
    const SplitSpace space = split_space(parts.get(), a, m.dim);
    must(launch_split(a, space, m.dim, processors, {stream, start}), "attention");
  }
  void attend_many(int layer, Start start) const {
    const PagedRows a = attention(layer);
    const int split = values.size() == 0 ? 0 : prefill_split(a, processors);
    const PrefillParts p{values.get(), tops.get(), split, prefill_parts(a, split)};
    must(launch_prefill(a, p, m.dim, {stream, start}), "prefill attention");
  }
  void step(const Plan& plan, bool many, Start start) const {
    must(launch_embed({head_w.get(), m.hidden, ids.get(), count.get(), rows, m.hidden, x.get(),
                       scaled.get(), norm(0), squares(0), squares(1),
                       (2 * m.layers + 1) * rows * kRowSlots}, {stream, Start::plain}), "embed");
    for (int l = 0; l < m.layers; ++l) {
      project(kQkv, l, plan.cuts[kQkv], start);
      if (m.head_norm) {
        const AppendRows<float> a{raw.get(), nullptr, head_norms.get(), head_norms.get() + m.dim,
                                  1e-6f, append_args(l)};
        must(launch_append_rows(a, 32, {stream, start}), "append");
      }
      many ? attend_many(l, start) : attend(l, start);
      project(kOut, l, plan.cuts[kOut], start);
      project(kGateUp, l, plan.cuts[kGateUp], start);
      project(kDown, l, plan.cuts[kDown], start);
    }
    project(kHead, 0, plan.cuts[kHead], start);
    must(launch(take_best, dim3(1), 512, 1, 0, Launch{stream, start}, best(), ids.get(), rows),
         "best");
  }

 private:
  template <Tail T>
  void go(const uint16_t* weight, int n, int k, const ProductInput& in, const TailArgs& t,
          const Cut& cut, Start start) const {
    const Gemv g{weight, k, n, k, pairs_of(T, t)};
    const Launch how{stream, start};
    must(cut.skinny ? launch_skinny<T>(g, in, t, cut.few, how)
                    : launch_gemv<T>(g, in, t, cut.gemv, processors, how),
         "product");
  }
  void fill(const Device<uint16_t>& to, float amplitude) {
    static uint32_t seed = 1;
    fill_random<<<processors * 4, 256>>>(to.get(), to.size(), amplitude, seed++);
    gpu_test::finish();
  }
};

}  // namespace limpet::gpu_bench
