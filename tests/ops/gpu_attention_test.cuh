// Both attention kernels against a double reference on the host, and bit for bit against themselves
// in another batch and under another bucket.
#pragma once
#include "ops/paged_attention/prefill.cuh"
#include "tests/ops/gpu_products_test.cuh"

namespace limpet::gpu_test {

struct AttentionCase {
  int heads, kv_heads, dim, window;
  std::vector<int> pasts, news;  // of each sequence
  int max_pages = 0, rows = 0, pages = 0;
  std::vector<int32_t> positions, sequence, table;
  std::vector<uint16_t> q, pool;
  static constexpr int layers = 2, layer = 1;
  float scale;

  AttentionCase(int h, int kv, int d, int w, std::vector<int> past, std::vector<int> fresh,
                uint64_t seed, int spare_pages = 1)
      : heads(h), kv_heads(kv), dim(d), window(w), pasts(std::move(past)), news(std::move(fresh)),
        scale(static_cast<float>(1 / std::sqrt(static_cast<double>(d)))) {
    Random random(seed);
    for (size_t s = 0; s < pasts.size(); ++s) {
      max_pages = std::max(max_pages, (pasts[s] + news[s] + 15) / 16 + spare_pages);
    }
    pages = static_cast<int>(pasts.size()) * max_pages;
    pool.assign(size_t{1} * pages * layers * 2 * kv_heads * 16 * dim, 0xffff);
    for (size_t s = 0; s < pasts.size(); ++s) {
      for (int p = 0; p < max_pages; ++p) {
        table.push_back((p * static_cast<int>(pasts.size()) + static_cast<int>(s)) % pages);
      }
      for (int t = 0; t < pasts[s] + news[s]; ++t) {
        for (int i = 0; i < 2 * kv_heads * dim; ++i) {
          pool[at(static_cast<int>(s), t, i / dim / kv_heads, i / dim % kv_heads) + i % dim] =
              narrow(2 * random.next());
        }
      }
      for (int t = 0; t < news[s]; ++t) {
        positions.push_back(pasts[s] + t), sequence.push_back(static_cast<int>(s));
      }
    }
    rows = static_cast<int>(positions.size());
    q = random.bf16(size_t{1} * rows * heads * dim, 2);
  }
  size_t at(int s, int token, int which, int head) const {
    const size_t page = table[s * max_pages + token / 16];
    return (((page * layers + layer) * 2 + which) * kv_heads + head) * 16 * dim + token % 16 * dim;
  }
  std::vector<double> reference() const {
    std::vector<double> out;
    for (int row = 0; row < rows; ++row) {
      const int last = positions[row], first = window > 0 ? std::max(0, last - window + 1) : 0;
      for (int h = 0; h < heads; ++h) {
        const uint16_t* qs = &q[(size_t{1} * row * heads + h) * dim];
        std::vector<double> scores, o(dim, 0);
        double top = -1e300, total = 0;
        for (int t = first; t <= last; ++t) {
          const uint16_t* k = &pool[at(sequence[row], t, 0, h / (heads / kv_heads))];
          double s = 0;
          for (int i = 0; i < dim; ++i) s += static_cast<double>(wide(qs[i])) * wide(k[i]);
          scores.push_back(s * scale), top = std::max(top, s * scale);
        }
        for (int t = first; t <= last; ++t) {
          const double p = std::exp(scores[t - first] - top);
          const uint16_t* v = &pool[at(sequence[row], t, 1, h / (heads / kv_heads))];
          total += p;
          for (int i = 0; i < dim; ++i) o[i] += p * wide(v[i]);
        }
        for (int i = 0; i < dim; ++i) out.push_back(o[i] / total);
      }
    }
    return out;
  }
};

struct AttentionRun {
  Device<uint16_t> q, out, pool;
  Device<int32_t> positions, sequence, table, count;
  Device<float> values, tops;
  Device<uint32_t> split;  // as poisoned: kAwaited
  PagedRows a;

  // The rows [first, first + rows) of the case; spare: rows of the shape beyond those.
  AttentionRun(const AttentionCase& c, int first, int rows, int spare)
      : out(size_t{1} * (rows + spare) * c.heads * c.dim), pool(c.pool), table(c.table),
        count(std::vector<int32_t>{rows}) {
    const auto part = [&](const auto& v, size_t width) {
      auto r = std::remove_cvref_t<decltype(v)>(v.begin() + first * width,
                                               v.begin() + (first + rows) * width);
      r.resize((rows + spare) * width);
      return r;
    };
    q = Device<uint16_t>(part(c.q, size_t{1} * c.heads * c.dim));
    positions = Device<int32_t>(part(c.positions, 1));
    sequence = Device<int32_t>(part(c.sequence, 1));
    a = {q.get(), out.get(), pool.get(), positions.get(), sequence.get(), table.get(), count.get(),
         rows + spare, c.heads, c.kv_heads, c.layer, c.layers, c.max_pages, c.window, c.scale};
    split = Device<uint32_t>(split_space_bytes(a, c.dim) / 4);
  }
  std::vector<uint16_t> decode(int dim, int processors) {
    out.poison();
    const SplitSpace space = split_space(split.get(), a, dim);
    must(launch_split(a, space, dim, processors, {}), "split attention");
    const auto awaited = split.read();
    if (std::ranges::count(awaited, kAwaited) != std::ssize(awaited)) {
      throw std::runtime_error("split attention left words that the next launch takes for its own");
    }
    return out.read();
  }
  std::vector<uint16_t> prefill(int dim, int split_tokens) {
    out.poison();
    PrefillParts parts;
    parts.split = split_tokens, parts.parts = prefill_parts(a, split_tokens);
    values = Device<float>(size_t{1} * a.rows * a.heads * parts.parts * dim);
    tops = Device<float>(size_t{1} * a.rows * a.heads * parts.parts * 2);
    parts.values = values.get(), parts.tops = tops.get();
    must(launch_prefill(a, parts, dim, {}), "prefill attention");
    return out.read();
  }
};

inline void test_attention_case(Report& report, const AttentionCase& c, const std::string& name,
                                int processors) {
  const auto want = c.reference();
  AttentionRun run(c, 0, c.rows, 3);
  const size_t width = size_t{1} * c.heads * c.dim, all = c.rows * width;
  const auto check = [&](const std::string& what, std::vector<uint16_t> got, bool spare) {
    bool beyond = true;
    for (size_t i = all; i < got.size(); ++i) beyond = beyond && got[i] == 0xffff;
    report.expect(name + what + " rows beyond the count", beyond || !spare ? 0 : 1, 0);
    got.resize(all);
    report.expect(name + what, relative(doubles(got), want), 6e-3);
    return got;
  };
  const auto decoded = check(" split", run.decode(c.dim, processors), true);
  const auto by_few = check(" split on 3 processors", run.decode(c.dim, 3), true);
  report.expect(name + " split bits on 3 processors", by_few == decoded ? 0 : 1, 0);
  const auto whole = check(" prefill", run.prefill(c.dim, 0), true);
  const auto parts = check(" prefill in parts", run.prefill(c.dim, 256), true);
  // A row in smaller buckets of rows, with the pages of a larger one: the same bits.
  AttentionCase wider = c;
  wider.max_pages = c.max_pages + 40;
  wider.table.assign(c.pasts.size() * wider.max_pages, 0);
  for (size_t s = 0; s < c.pasts.size(); ++s) {
    std::copy_n(c.table.begin() + s * c.max_pages, c.max_pages,
                wider.table.begin() + s * wider.max_pages);
  }
  for (const int row : {0, c.rows / 2, c.rows - 1}) {
    AttentionRun alone(wider, row, 1, 1), one(wider, row, 1, 0);
    const auto same = [&](const char* what, const std::vector<uint16_t>& one,
                          const std::vector<uint16_t>& batch) {
      const bool equal = std::equal(one.begin(), one.begin() + width, batch.begin() + row * width);
      report.expect(name + what + " bits of row " + std::to_string(row), equal ? 0 : 1, 0);
    };
    same(" split", alone.decode(c.dim, processors), decoded);
    same(" split of one", one.decode(c.dim, processors), decoded);
    AttentionRun batch(wider, 0, c.rows, 0);
    same(" prefill", [&] {
      auto got = batch.prefill(c.dim, 256);
      return std::vector<uint16_t>(got.begin() + row * width, got.begin() + (row + 1) * width);
    }(), parts);
  }
  (void)whole;
}

// Rows whose cuts are long, so that a warp takes several pages of a cut.
inline void test_long_rows(Report& report, int processors) {
  uint64_t seed = 900;
  for (const int window : {0, 1700}) {
    for (const int dim : {64, 128}) {
      const AttentionCase rows(8, 2, dim, window, {1535, 1536, 2047, 2048, 2175, 2176, 2600, 3300},
                               std::vector<int>(8, 1), seed++);
      test_attention_case(report, rows,
                          "long rows of " + std::to_string(dim) + " window " +
                              std::to_string(window), processors);
    }
  }
}

// Rows of so many parts that they are merged in several batches (split_parts.cuh).
inline void test_many_parts(Report& report, int processors) {
  uint64_t seed = 950;
  for (const int window : {0, 8800}) {
    for (const int dim : {32, 80, 128}) {
      const AttentionCase rows(4, 1, dim, window, {8319, 8320, 17000}, std::vector<int>(3, 1),
                               seed++);
      test_attention_case(report, rows,
                          "many parts of " + std::to_string(dim) + " window " +
                              std::to_string(window), processors);
    }
  }
}

// Every `each`-th case.
inline void test_attention(Report& report, int processors, int each) {
  const struct { int heads, kv, dim; } shapes[] = {
      {8, 2, 128}, {4, 4, 64}, {7, 1, 128}, {8, 1, 32}, {6, 3, 80}, {4, 1, 96},
      {2, 2, 112}, {4, 2, 256}, {12, 1, 64}, {4, 2, 160}, {4, 2, 192}};
  test_long_rows(report, processors);
  if (each == 1) test_many_parts(report, processors);
  uint64_t seed = 100;
  for (const auto& s : shapes) {
    for (const int window : {0, 24, 300}) {
      if (seed / 2 % each != 0 && (seed += 2) != 0) continue;
      const std::string name = "heads " + std::to_string(s.heads) + "/" + std::to_string(s.kv) +
                               " of " + std::to_string(s.dim) + " window " + std::to_string(window);
      // Decode rows at the edges of pages and parts.
      const AttentionCase rows(s.heads, s.kv, s.dim, window,
                               {0, 1, 15, 16, 17, 159, 160, 255, 256, 257, 511, 700, 1100},
                               std::vector<int>(13, 1), seed++);
      test_attention_case(report, rows, name + " decode", processors);
      // Chunks of several sequences, and a decode row among them.
      const AttentionCase chunks(s.heads, s.kv, s.dim, window, {0, 300, 77, 520}, {70, 33, 1, 5},
                                 seed++);
      test_attention_case(report, chunks, name + " chunks", processors);
    }
  }
}

}  // namespace limpet::gpu_test
