// Products and their fused ends against a double reference on the host.
#pragma once
#include "ops/linear/skinny.cuh"
#include "tests/ops/gpu_host.cuh"

namespace limpet::gpu_test {
using namespace limpet::ops;

struct Report {
  int checks = 0, failures = 0;
  void expect(const std::string& what, double error, double limit) {
    ++checks;
    if (error <= limit) return;
    ++failures;
    std::printf("FAIL %s: %.3g (limit %.3g)\n", what.c_str(), error, limit);
  }
};

// One product, its operands on both sides, and what each tail must give.
struct ProductCase {
  int n, k, rows, counted, head_dim = 2, rotary = 2, heads = 0, kv_heads = 0;
  std::vector<uint16_t> weight, x;
  std::vector<float> bias, y, norm, rope;
  std::vector<uint64_t> squares;
  std::vector<int32_t> positions, sequence, table;
  std::vector<double> sums;  // [counted, n], with the factor 1 / rms
  static constexpr float eps = 1e-5f;
  static constexpr int layers = 2, layer = 1, max_pages = 5;
  int64_t stride;

  ProductCase(int outputs, int depth, int r, int c, uint64_t seed)
      : n(outputs), k(depth), rows(r), counted(c), stride((depth + 7) / 8 * 8) {
    Random random(seed);
    weight = random.bf16(static_cast<size_t>(n) * stride, std::sqrt(3.0 / k));
    x = random.bf16(static_cast<size_t>(rows) * k, 1);
    bias = random.f32(n, 0.5), y = random.f32(static_cast<size_t>(rows) * n, 1);
    norm = random.f32(n, 0.25, 1);
    for (int i = 0; i < rows; ++i) {
      squares.push_back(static_cast<uint64_t>((1.5 + random.next()) * k * kSquaresUnit));
      squares.resize(squares.size() + kRowSlots - 1, ~uint64_t{0});
      positions.push_back((i * 37 + 3) % (max_pages * 16)), sequence.push_back(rows - 1 - i);
    }
    for (int i = 0; i < rows * max_pages; ++i) table.push_back((i * 7 + 5) % (rows * max_pages));
    // 7 and the number of pages may share a factor: make it a permutation then.
    std::vector<int32_t> sorted = table;
    std::sort(sorted.begin(), sorted.end());
    for (size_t i = 0; i < sorted.size(); ++i) {
      if (sorted[i] != static_cast<int32_t>(i)) {
        for (size_t j = 0; j < table.size(); ++j) table[j] = static_cast<int32_t>(j);
        break;
      }
    }
    sums.resize(static_cast<size_t>(counted) * n);
    for (int row = 0; row < counted; ++row) {
      const double mean = static_cast<double>(squares[row * kRowSlots]) / kSquaresUnit / k;
      const double factor = 1 / std::sqrt(mean + eps);
      for (int i = 0; i < n; ++i) {
        double s = 0;
        const uint16_t *w = &weight[i * stride], *v = &x[static_cast<size_t>(row) * k];
        for (int j = 0; j < k; ++j) s += static_cast<double>(wide(w[j])) * wide(v[j]);
        sums[static_cast<size_t>(row) * n + i] = s * factor;
      }
    }
  }
  void make_heads(int h, int kv, int dim, int turned) {
    heads = h, kv_heads = kv, head_dim = dim, rotary = turned;
    for (int i = 0; i < rows; ++i) {
      for (int part = 0; part < 2; ++part) {
        for (int j = 0; j < rotary / 2; ++j) {
          const double angle = positions[i] * std::pow(10000.0, -2.0 * j / rotary);
          rope.push_back(static_cast<float>(part ? std::sin(angle) : std::cos(angle)));
        }
      }
    }
  }
};

// Runs one kernel on a case and compares all that it writes.
struct ProductRun {
  const ProductCase& c;
  Report& report;
  std::string name;
  Device<uint16_t> weight, x, scaled, q, pool;
  Device<float> bias, y, norm, rope;
  Device<uint64_t> squares, sums;
  Device<unsigned long long> best;
  Device<int32_t> positions, sequence, table, count;

  ProductRun(const ProductCase& cs, Report& r)
      : c(cs), report(r), weight(cs.weight), x(cs.x), scaled(size_t{1} * cs.rows * cs.n),
        q(size_t{1} * cs.rows * std::max(cs.heads, 1) * cs.head_dim),
        pool(size_t{1} * cs.rows * cs.max_pages * cs.layers * 2 * std::max(cs.kv_heads, 1) * 16 *
             cs.head_dim),
        bias(cs.bias), y(cs.y), norm(cs.norm), rope(cs.rope), squares(cs.squares),
        sums(cs.rows * kRowSlots),
        best(cs.rows * kRowSlots), positions(cs.positions), sequence(cs.sequence), table(cs.table),
        count(std::vector<int32_t>{cs.counted}) {}

  Gemv product(Tail tail, const TailArgs& t) const {
    return {weight.get(), c.stride, c.n, c.k, pairs_of(tail, t)};
  }
  ProductInput input() const {
    return {x.get(), c.k, squares.get(), 1.0f / static_cast<float>(c.k), c.eps};
  }
  TailArgs args(Tail tail) {
    TailArgs t;
    t.rows = c.rows, t.count = count.get(), t.y = y.get(), t.y_stride = c.n;
    t.bias = tail == Tail::gate || tail == Tail::best ? nullptr : bias.get();
    t.scaled = scaled.get(), t.scaled_stride = tail == Tail::gate ? c.n / 2 : c.n;
    t.norm = norm.get(), t.squares = sums.get(), t.best = best.get();
    t.heads = c.heads, t.kv_heads = c.kv_heads, t.head_dim = c.head_dim, t.rotary = c.rotary;
    t.layer = c.layer, t.layers = c.layers, t.max_pages = c.max_pages, t.rope = rope.get();
    t.rope_stride = c.rotary, t.q = q.get(), t.pool = pool.get(), t.positions = positions.get();
    t.row_sequence = sequence.get(), t.page_table = table.get();
    y.write(c.y), scaled.poison(), q.poison(), pool.poison(), sums.fill(0), best.fill(0);
    if (tail == Tail::store || tail == Tail::best) y.poison();
    return t;
  }
  std::vector<double> rows_of(const std::vector<double>& all, int width) const {
    return {all.begin(), all.begin() + static_cast<size_t>(c.counted) * width};
  }
  void untouched(const std::vector<double>& all, int width, bool poisoned) {
    bool same = true;
    for (size_t i = static_cast<size_t>(c.counted) * width; i < static_cast<size_t>(c.rows) * width;
         ++i) {
      same = same && (poisoned ? std::isnan(all[i]) : all[i] == c.y[i]);
    }
    report.expect(name + " rows beyond the count", same ? 0 : 1, 0);
  }

  void check_store(bool with_bias) {
    std::vector<double> want = c.sums;
    for (size_t i = 0; with_bias && i < want.size(); ++i) want[i] += c.bias[i % c.n];
    const auto got = doubles(y.read());
    report.expect(name + " y", relative(rows_of(got, c.n), want), 5e-5);
    untouched(got, c.n, true);
  }
  void check_residual(bool with_bias) {
    std::vector<double> want = c.sums, want_scaled, want_squares(c.counted, 0), got_squares;
    for (size_t i = 0; i < want.size(); ++i) {
      want[i] += (with_bias ? c.bias[i % c.n] : 0.0f) + static_cast<double>(c.y[i]);
      want_scaled.push_back(want[i] * c.norm[i % c.n]);
      want_squares[i / c.n] += want[i] * want[i];
    }
    const auto got = doubles(y.read());
    report.expect(name + " y", relative(rows_of(got, c.n), want), 5e-5);
    untouched(got, c.n, false);
    report.expect(name + " scaled", relative(rows_of(doubles(scaled.read()), c.n), want_scaled),
                  3e-3);
    const auto all_sums = sums.read();
    for (int row = 0; row < c.counted; ++row) {
      got_squares.push_back(static_cast<double>(all_sums[row * kRowSlots]) / kSquaresUnit);
    }
    report.expect(name + " squares", relative(got_squares, want_squares), 2e-5);
  }
  void check_gate() {
    std::vector<double> want;
    for (size_t i = 0; i < c.sums.size(); i += 2) {
      want.push_back(c.sums[i] / (1 + std::exp(-c.sums[i])) * c.sums[i + 1]);
    }
    const auto got = doubles(scaled.read());
    report.expect(name + " gated", relative(rows_of(got, c.n / 2), want), 3e-3);
  }
  void check_best() {
    const auto keys = best.read();
    for (int row = 0; row < c.counted; ++row) {
      const double* logits = &c.sums[static_cast<size_t>(row) * c.n];
      const double top = *std::max_element(logits, logits + c.n);
      const uint32_t index = ~static_cast<uint32_t>(keys[row * kRowSlots]);
      const double got = index < static_cast<uint32_t>(c.n) ? logits[index] : -1e9;
      report.expect(name + " best", (top - got) / std::abs(top), 1e-4);
    }
    for (int row = c.counted; row < c.rows; ++row) {
      report.expect(name + " best beyond the count", keys[row * kRowSlots] == 0 ? 0 : 1, 0);
    }
  }
  void check_append() {
    std::vector<double> want_q, got_q, want_kv, got_kv;
    const auto all_q = doubles(q.read());
    auto pool_now = pool.read();
    const int all = c.heads + 2 * c.kv_heads, dim = c.head_dim, half = c.rotary / 2;
    for (int row = 0; row < c.counted; ++row) {
      for (int head = 0; head < all; ++head) {
        std::vector<double> v(dim), turned;
        for (int i = 0; i < dim; ++i) {
          v[i] = c.sums[static_cast<size_t>(row) * c.n + head * dim + i] + c.bias[head * dim + i];
        }
        turned = v;
        const float* rope_row = &c.rope[static_cast<size_t>(row) * c.rotary];
        for (int i = 0; i < half && head < c.heads + c.kv_heads; ++i) {
          turned[i] = v[i] * rope_row[i] - v[i + half] * rope_row[half + i];
          turned[i + half] = v[i + half] * rope_row[i] + v[i] * rope_row[half + i];
        }
        if (head < c.heads) {
          want_q.insert(want_q.end(), turned.begin(), turned.end());
          continue;
        }
        want_kv.insert(want_kv.end(), turned.begin(), turned.end());
        const int h = head - c.heads, at = c.positions[row];
        const int page = c.table[c.sequence[row] * c.max_pages + at / 16];
        const size_t slot =
            ((((size_t{1} * page * c.layers + c.layer) * 2 + h / c.kv_heads) * c.kv_heads +
              h % c.kv_heads) * 16 + at % 16) * dim;
        for (int i = 0; i < dim; ++i) {
          got_kv.push_back(wide(pool_now[slot + i]));
          pool_now[slot + i] = 0xffff;
        }
      }
    }
    report.expect(name + " q", relative(rows_of(all_q, c.heads * dim), want_q), 3e-3);
    report.expect(name + " kv", relative(got_kv, want_kv), 3e-3);
    const bool rest = std::all_of(pool_now.begin(), pool_now.end(),
                                  [](uint16_t e) { return e == 0xffff; });
    report.expect(name + " rest of the pool", rest ? 0 : 1, 0);
  }

  template <Tail T>
  void run(int processors) {
    run<T>(processors, true);
    if (T == Tail::residual) run<T>(processors, false);
  }
  template <Tail T>
  void run(int processors, bool with_bias) {
    const auto check = [&](GpuError error) {
      must(error, name.c_str());
      finish();
      if constexpr (T == Tail::store) check_store(true);
      if constexpr (T == Tail::residual) check_residual(with_bias);
      if constexpr (T == Tail::gate) check_gate();
      if constexpr (T == Tail::best) check_best(), check_store(false);
      if constexpr (T == Tail::append) check_append();
    };
    const std::string base = "tail " + std::to_string(static_cast<int>(T)) + " n " +
                             std::to_string(c.n) + " k " + std::to_string(c.k) + " rows " +
                             std::to_string(c.rows) + (with_bias ? "" : " no bias");
    if (c.rows == 1) {
      for (const GemvCut cut : {GemvCut{false, 2, 0}, GemvCut{false, 1, 50}, GemvCut{true, 1, 100},
                                GemvCut{true, 2, 0}}) {
        if (cut.bulk && cut.blocks_per_processor == 2 && c.k > 8192) continue;
        name = base + (cut.bulk ? " bulk " : " rows ") + std::to_string(cut.blocks_per_processor);
        TailArgs t = args(T);
        if (!with_bias) t.bias = nullptr;
        check(launch_gemv<T>(product(T, t), input(), t, cut, processors, {}));
      }
    }
    if (c.k % 64 != 0) return;
    for (const SkinnyCut& cut : skinny_cuts(c.rows, c.k, T == Tail::append ? c.head_dim : 2)) {
      name = base + (cut.stream.tile != 0 ? " streamed " : " skinny ");
      for (const int v : {cut.groups, cut.split, cut.stream.tile, cut.stream.parts,
                          cut.stream.mates}) {
        name += " " + std::to_string(v);
      }
      TailArgs t = args(T);
      if (!with_bias) t.bias = nullptr;
      check(launch_skinny<T>(product(T, t), input(), t, cut, {}));
    }
  }
};

// Every `each`-th case.
inline void test_products(Report& report, int processors, int each) {
  const struct { int n, k, rows, counted; } shapes[] = {
      {1000, 1032, 1, 1},  {512, 1024, 1, 1},   {322, 14336, 1, 1}, {130, 18944, 1, 1},
      {4100, 3584, 1, 1},  {514, 1024, 2, 2},   {386, 2048, 7, 6},  {256, 4096, 8, 8},
      {1000, 512, 9, 9},   {130, 14336, 16, 13}, {384, 1024, 31, 31}, {640, 3584, 64, 64},
      {258, 1024, 40, 33}, {130, 192, 16, 16}, {256, 256, 33, 33}};
  uint64_t seed = 1;
  for (const auto& s : shapes) {
    if (seed % each != 0 && seed++ != 0) continue;
    const ProductCase c(s.n, s.k, s.rows, s.counted, seed++);
    ProductRun run(c, report);
    run.run<Tail::store>(processors);
    run.run<Tail::residual>(processors);
    run.run<Tail::gate>(processors);
    run.run<Tail::best>(processors);
  }
  for (const int rows : {1, 8, 33}) {  // a last output without a second one
    const ProductCase c(321, 1024, rows, rows, seed++);
    ProductRun run(c, report);
    run.run<Tail::store>(processors);
    run.run<Tail::best>(processors);
  }
  const struct { int heads, kv, dim, rotary; } heads[] = {
      {8, 2, 128, 128}, {4, 2, 64, 64}, {7, 1, 128, 128}, {4, 4, 80, 80}, {2, 1, 256, 64}};
  for (const auto& h : heads) {
    for (const int rows : {1, 5, 16, 64}) {
      if (seed % each != 0 && seed++ != 0) continue;
      ProductCase c((h.heads + 2 * h.kv) * h.dim, 512, rows, rows == 16 ? 11 : rows, seed++);
      c.make_heads(h.heads, h.kv, h.dim, h.rotary);
      ProductRun(c, report).run<Tail::append>(processors);
    }
  }
}

}  // namespace limpet::gpu_test
