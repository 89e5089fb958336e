#include <tuple>
#include <utility>

#include "tests/ops/run_op.h"

namespace limpet::test {
namespace {

struct Case {
  int64_t rows, k, n;
  bool bias = false, residual = false;
  int32_t count = -1;
};

const Case kCases[] = {
    {1, 64, 32},
    {1, 1, 1},
    {3, 65, 33, true},
    {8, 128, 96, true, true},
    {9, 37, 71, false, true},
    {17, 96, 160, true, true, 13},
    {4, 64, 48, false, false, 0},
    {21, 300, 130, true, false, 20},
};

std::vector<double> reference(const Case& c, const std::vector<Tensor>& in) {
  std::vector<double> y(static_cast<size_t>(c.rows * c.n));
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t j = 0; j < c.n; ++j) {
      double sum = c.bias ? in[2].values[j] : 0;
      if (c.residual) sum += in.back().values[r * c.n + j];
      for (int64_t i = 0; i < c.k; ++i) {
        sum += static_cast<double>(rounded(in[1].dtype, in[0].values[r * c.k + i])) *
               rounded(in[1].dtype, in[1].values[j * c.k + i]);
      }
      y[r * c.n + j] = sum;
    }
  }
  return y;
}

std::vector<Tensor> operands(const Case& c, DType dtype, uint64_t seed) {
  Random random(seed);
  std::vector<Tensor> in = {f32({c.rows, c.k}, random.many(c.rows * c.k)),
                            weight(Layout::linear, dtype, {c.n, c.k}, random.many(c.n * c.k))};
  if (c.bias) in.push_back(f32({c.n}, random.many(c.n)));
  if (c.residual) in.push_back(f32({c.rows, c.n}, random.many(c.rows * c.n)));
  return in;
}

using LinearTest = OnEveryDevice;

TEST_P(LinearTest, EqualsTheReference) {
  for (const Case& c : kCases) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(std::to_string(c.rows) + " x " + std::to_string(c.k) + " x " +
                   std::to_string(c.n) + " " + name_of(dtype));
      auto in = operands(c, dtype, 7);
      const auto got =
          run_op(*backend_, ops::Linear{c.bias, c.residual}, in, {c.rows, c.n}, {.count = c.count});
      expect_rows(got, reference(c, in), 1e-5, c.n, c.count < 0 ? c.rows : c.count);
    }
  }
}

TEST_P(LinearTest, TakesASliceOfColumnsAsInput) {
  Random random(3);
  const Case c{5, 24, 40};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    auto in = operands(c, dtype, 11);
    Tensor wide = f32({c.rows, c.k}, random.many(c.rows * 31));
    wide.row_stride = 31;
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t i = 0; i < c.k; ++i) wide.values[r * 31 + i] = in[0].values[r * c.k + i];
    }
    const auto dense = run_op(*backend_, ops::Linear{}, in, {c.rows, c.n});
    in[0] = wide;
    EXPECT_EQ(run_op(*backend_, ops::Linear{}, in, {c.rows, c.n}), dense);
  }
}

TEST_P(LinearTest, SourcesAreStackedAndConvertedOnce) {
  // q, k and v of f16, bf16 and f32, none a whole panel: one product gives all three.
  const int64_t k = 6;
  const std::vector<uint16_t> half = {0x3c00, 0xc000, 0x0001, 0x3555, 0x7bff, 0x8000};
  const std::vector<uint16_t> brain = {0x3f80, 0xc000, 0x3eaa, 0x0000, 0x4049, 0xbf80};
  const std::vector<float> full = {0.1f, -2.5f, 1e-3f, 7, 0, 1};
  const std::vector<WeightSource> sources = {{half.data(), DType::f16, 1, k},
                                             {brain.data(), DType::bf16, 1, k},
                                             {full.data(), DType::f32, 1, k}};
  const auto weights = backend_->pack(Layout::linear, DType::f32, sources);
  Program p{.name = "identity"};
  p.values = {{.name = "x", .shape = {k, k}, .kind = ValueKind::input},
              {.name = "w", .shape = {3, k}, .kind = ValueKind::weight, .layout = Layout::linear},
              {.name = "y", .shape = {k, 3}, .kind = ValueKind::output}};
  p.steps = {{.op = ops::Linear{}, .inputs = {0, 1}, .outputs = {2}}};
  std::vector<float> identity(k * k), y(k * 3);
  for (int64_t i = 0; i < k; ++i) identity[i * k + i] = 1;
  const auto x = uploaded(*backend_, f32({k, k}, identity)), out = backend_->allocate(k * 3 * 4);
  const auto exe = backend_->compile(p);
  exe->bind(0, *x), exe->bind(1, *weights), exe->bind(2, *out);
  exe->run();
  backend_->read(*out, 0, y.data(), k * 3 * 4);
  const std::vector<float> from_half = {1, -2, 0x1p-24f, 0.333251953125f, 65504, 0};
  for (int64_t i = 0; i < k; ++i) {
    EXPECT_EQ(y[i * 3], from_half[i]);
    EXPECT_EQ(y[i * 3 + 1], f32_from_bf16(brain[i]));
    EXPECT_EQ(y[i * 3 + 2], full[i]);
  }
}

// What the op's header says of i8, in double precision but for the scales.
std::vector<double> int8_reference(const Case& c, const std::vector<Tensor>& in) {
  const auto scale_of = [](const float* from, int64_t n) {
    float largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(from[i]));
    return largest / 127.0f;
  };
  const auto whole = [](float v, float scale) {
    return scale > 0 ? std::nearbyint(static_cast<double>(v) / static_cast<double>(scale)) : 0.0;
  };
  std::vector<double> y(static_cast<size_t>(c.rows * c.n));
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t j = 0; j < c.n; ++j) {
      const float* w = in[1].values.data() + j * c.k;
      const float w_scale = scale_of(w, c.k);
      double sum = 0;
      for (int64_t g = 0; g < c.k; g += 64) {
        const int64_t n = std::min<int64_t>(64, c.k - g);
        const float* x = in[0].values.data() + r * c.k + g;
        const float x_scale = scale_of(x, n);
        double whole_sum = 0;
        for (int64_t i = 0; i < n; ++i) {
          whole_sum += whole(x[i], x_scale) * whole(w[g + i], w_scale);
        }
        sum += whole_sum * static_cast<double>(x_scale);
      }
      sum = sum * static_cast<double>(w_scale) + (c.bias ? in[2].values[j] : 0);
      y[r * c.n + j] = sum + (c.residual ? in.back().values[r * c.n + j] : 0);
    }
  }
  return y;
}

TEST(LinearInt8, EqualsTheReferenceByAllInstructions) {
  for (const bool dot : {true, false}) {
    auto backend = make_backend({}, {.threads = 2, .bf16_dot = dot});
    for (const Case& c : kCases) {
      SCOPED_TRACE(std::to_string(c.rows) + " x " + std::to_string(c.k) + " x " +
                   std::to_string(c.n) + (dot ? " dot" : ""));
      auto in = operands(c, DType::i8, 7);
      const auto got =
          run_op(*backend, ops::Linear{c.bias, c.residual}, in, {c.rows, c.n}, {.count = c.count});
      // A quotient at a half may be rounded to either side: one unit of either scale.
      expect_rows(got, int8_reference(c, in), 2e-3, c.n, c.count < 0 ? c.rows : c.count);
      const auto exact = reference(c, in);
      double error = 0, power = 0;
      for (int64_t i = 0; i < (c.count < 0 ? c.rows : c.count) * c.n; ++i) {
        error += std::pow(static_cast<double>(got[i]) - exact[i], 2);
        power += std::pow(exact[i], 2);
      }
      EXPECT_LE(error, 2e-4 * power);
    }
  }
}

TEST(LinearInt8, ZerosAreZeroAndNoNumberStaysNone) {
  for (const bool dot : {true, false}) {
    auto backend = make_backend({}, {.threads = 1, .bf16_dot = dot});
    std::vector<float> x(2 * 70, 0.0f), w(3 * 70, 0.5f);
    for (int64_t i = 0; i < 70; ++i) w[70 + i] = 0;
    x[70 + 3] = std::nanf("");
    std::vector<Tensor> in = {f32({2, 70}, x), weight(Layout::linear, DType::i8, {3, 70}, w)};
    const auto y = run_op(*backend, ops::Linear{}, in, {2, 3});
    for (int64_t j = 0; j < 3; ++j) {
      EXPECT_EQ(y[j], 0.0f);
      EXPECT_TRUE(std::isnan(y[3 + j]));
    }
  }
}

TEST(LinearExact, Bf16WeightsGiveTheBitsOfF32Weights) {
  for (const Case& c : kCases) {
    auto in = operands(c, DType::bf16, 9);
    for (float& v : in[1].values) v = rounded(DType::bf16, v);
    auto wide = in;
    wide[1].dtype = DType::f32;
    auto backend = make_backend({}, {.threads = 2});
    const ops::Linear plain{.bias = c.bias, .residual = c.residual};
    const ops::Linear exact{.bias = c.bias, .residual = c.residual, .exact = true};
    const auto want = run_op(*backend, plain, wide, {c.rows, c.n}, {.count = c.count});
    EXPECT_EQ(run_op(*backend, exact, in, {c.rows, c.n}, {.count = c.count}), want);
    EXPECT_THROW(run_op(*backend, exact, wide, {c.rows, c.n}), std::logic_error);
  }
}

TEST(LinearRows, BitsDependNeitherOnTheBatchNorOnThreads) {
  const Case whole{23, 130, 100, true, true};
  for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
    auto in = operands(whole, dtype, 5);
    auto one = make_backend({}, {.threads = 1});
    const auto want = run_op(*one, ops::Linear{true, true}, in, {whole.rows, whole.n});
    for (const int threads : {2, 3}) {
      auto many = make_backend({}, {.threads = threads});
      EXPECT_EQ(run_op(*many, ops::Linear{true, true}, in, {whole.rows, whole.n}), want);
    }
    for (const int64_t chunk : {1, 2, 7}) {
      for (int64_t at = 0; at < whole.rows; at += chunk) {
        const int64_t n = std::min(chunk, whole.rows - at);
        auto part = in;
        part[0] = f32({n, whole.k}, {in[0].values.begin() + at * whole.k,
                                     in[0].values.begin() + (at + n) * whole.k});
        part[3] = f32({n, whole.n}, {in[3].values.begin() + at * whole.n,
                                     in[3].values.begin() + (at + n) * whole.n});
        const auto got = run_op(*one, ops::Linear{true, true}, part, {n, whole.n});
        ASSERT_TRUE(same_bits(got.data(), want.data() + at * whole.n, n * whole.n))
            << name_of(dtype) << " rows " << at << " in chunks of " << chunk;
      }
    }
  }
}

TEST(LinearPacked, RefusesSourcesThatDoNotFit) {
  auto backend = make_backend({});
  const std::vector<float> data(32);
  const std::vector<WeightSource> different = {{data.data(), DType::f32, 2, 4},
                                               {data.data(), DType::f32, 2, 5}};
  EXPECT_THROW(backend->pack(Layout::linear, DType::f32, different), std::logic_error);
  const std::vector<WeightSource> lone = {{data.data(), DType::f32, 2, 4}};
  EXPECT_THROW(backend->pack(Layout::gated, DType::f32, lone), std::logic_error);
  EXPECT_THROW(backend->pack(Layout::linear, DType::f16, lone), std::logic_error);
  EXPECT_THROW(backend->pack(Layout::linear, DType::f32, {}), std::logic_error);
  EXPECT_THROW(backend->pack(Layout::dense, DType::i8, lone), std::logic_error);
}

std::vector<std::pair<const void*, size_t>> told;  // what pack() was done with

TEST(LinearPacked, SaysOnceOfEachByteThatItHasBeenRead) {
  auto backend = make_backend({}, {.threads = 1});
  const std::vector<float> a(40 * 3), b(70 * 3);
  const auto note = [](const void* from, size_t bytes) { told.emplace_back(from, bytes); };
  const std::vector<WeightSource> stacked = {{a.data(), DType::f32, 40, 3, note},
                                             {b.data(), DType::f32, 70, 3, note}};
  const std::vector<WeightSource> pair = {{b.data(), DType::f32, 35, 3, note},
                                          {b.data() + 105, DType::f32, 35, 3, note}};
  const std::vector<WeightSource> one = {{a.data(), DType::f32, 40, 3, note}};
  const std::tuple<Layout, const std::vector<WeightSource>*, size_t> cases[] = {
      {Layout::linear, &stacked, 110}, {Layout::gated, &pair, 70}, {Layout::dense, &one, 40}};
  for (const auto& [layout, sources, rows] : cases) {
    told.clear();
    backend->pack(layout, DType::bf16, *sources);
    size_t bytes = 0;
    for (const auto& [from, n] : told) bytes += n;
    EXPECT_EQ(bytes, rows * 12);
  }
}

LIMPET_ON_EVERY_DEVICE(LinearTest);

}  // namespace
}  // namespace limpet::test
