// The fast GPU kernels, one by one, on the device that is there: every result against a double
// reference on the host, outputs poisoned before. Exit status 0: all right; 77: there is no GPU
// that they run on.
#include "ops/embedding/embed_rows.cuh"
#include "ops/rms_norm/norm_rows.cuh"
#include "ops/rope_append/append_rows.cuh"
#include "ops/sample/draw_rows.cuh"
#include "ops/silu_mul/gate_rows.cuh"
#include "tests/ops/gpu_attention_test.cuh"

namespace limpet::gpu_test {
namespace {

constexpr int kSkipped = 77;

void test_embed(Report& report) {
  constexpr int vocab = 50, width = 1030, rows = 5, counted = 4;
  Random random(7);
  const auto table = random.bf16(size_t{vocab} * width, 2);
  const auto norm = random.f32(width, 0.5, 1);
  const std::vector<int32_t> ids{3, 49, 0, 17, -1};
  Device<uint16_t> t(table), scaled(size_t{rows} * width);
  Device<float> x(size_t{rows} * width), n(norm);
  Device<int32_t> i(ids), count(std::vector<int32_t>{counted});
  Device<uint64_t> squares(rows * kRowSlots), clear(3000);
  must(launch_embed({t.get(), width, i.get(), count.get(), rows, width, x.get(), scaled.get(),
                     n.get(), squares.get(), clear.get(), 2999}, {}), "embed");
  std::vector<double> want_x, want_scaled, want_squares, got_squares;
  for (int r = 0; r < counted; ++r) {
    double s = 0;
    for (int j = 0; j < width; ++j) {
      const double v = wide(table[size_t{1} * ids[r] * width + j]);
      want_x.push_back(v), want_scaled.push_back(v * norm[j]), s += v * v;
    }
    want_squares.push_back(s);
  }
  auto got_x = doubles(x.read()), got_scaled = doubles(scaled.read());
  report.expect("embed beyond the count", std::isnan(got_x.back()) ? 0 : 1, 0);
  got_x.resize(want_x.size()), got_scaled.resize(want_x.size());
  for (int r = 0; r < counted; ++r) {
    got_squares.push_back(static_cast<double>(squares.read()[r * kRowSlots]) / kSquaresUnit);
  }
  report.expect("embed x", relative(got_x, want_x), 0);
  report.expect("embed scaled", relative(got_scaled, want_scaled), 3e-3);
  report.expect("embed squares", relative(got_squares, want_squares), 1e-5);
  const auto cleared = clear.read();
  bool zero = cleared[2999] != 0;
  for (int j = 0; j < 2999; ++j) zero = zero && cleared[j] == 0;
  report.expect("embed clears", zero ? 0 : 1, 0);
}

void test_norm(Report& report) {
  for (const int width : {64, 1024, 4096, 8192}) {
    constexpr int rows = 3;
    Random random(width);
    const auto x = random.f32(size_t{1} * rows * width, 3), norm = random.f32(width, 0.5, 1);
    Device<float> dx(x), dn(norm);
    Device<uint16_t> y(size_t{1} * rows * width);
    must(launch_norm_rows({dx.get(), width, dn.get(), 1e-5f, rows, width, y.get(), nullptr}, {}),
         "norm");
    std::vector<double> want;
    for (int r = 0; r < rows; ++r) {
      double s = 0;
      for (int i = 0; i < width; ++i) s += 1.0 * x[r * width + i] * x[r * width + i];
      for (int i = 0; i < width; ++i) {
        want.push_back(x[r * width + i] / std::sqrt(s / width + 1e-5) * norm[i]);
      }
    }
    report.expect("norm of " + std::to_string(width), relative(doubles(y.read()), want), 3e-3);
  }
}

void test_gate(Report& report) {
  constexpr int rows = 5, counted = 3, n = 96;
  Random random(3);
  const auto in = random.bf16(size_t{rows} * 2 * n, 4);
  Device<uint16_t> di(in), out(size_t{rows} * n);
  Device<int32_t> count(std::vector<int32_t>{counted});
  must(launch_gate_rows(di.get(), out.get(), rows, n, count.get(), {}), "gate");
  std::vector<double> want;
  for (int i = 0; i < counted * n; ++i) {
    const double g = wide(in[2 * i]), u = wide(in[2 * i + 1]);
    want.push_back(g / (1 + std::exp(-g)) * u);
  }
  auto got = doubles(out.read());
  report.expect("gate beyond the count", std::isnan(got.back()) ? 0 : 1, 0);
  got.resize(want.size());
  report.expect("gate", relative(got, want), 3e-3);
}

// Bias, head norm and rotation by rows give what the product's own tail gives, plus the norm.
template <class Element>
void test_append_rows(Report& report, int heads, int kv, int dim, bool normed) {
  const int n = (heads + 2 * kv) * dim, rows = 6;
  ProductCase c(n, 64, rows, 5, 1000 + dim);
  c.make_heads(heads, kv, dim, dim);
  Random random(5);
  const auto norms = random.f32(2 * dim, 0.5, 1);
  std::vector<Element> qkv(size_t{1} * rows * n);
  for (int r = 0; r < c.counted; ++r) {
    for (int i = 0; i < n; ++i) {
      const double v = c.sums[size_t{1} * r * n + i];
      if constexpr (sizeof(Element) == 2) {
        qkv[size_t{1} * r * n + i] = narrow(v);
        c.sums[size_t{1} * r * n + i] = wide(narrow(v));
      } else {
        qkv[size_t{1} * r * n + i] = static_cast<float>(v);
      }
    }
    for (int h = 0; normed && h < heads + kv; ++h) {
      double* v = &c.sums[size_t{1} * r * n + h * dim];
      double s = 0;
      for (int i = 0; i < dim; ++i) v[i] += c.bias[h * dim + i], s += v[i] * v[i];
      for (int i = 0; i < dim; ++i) {  // check_append adds the bias once more
        v[i] = v[i] / std::sqrt(s / dim + 1e-6) * norms[(h < heads ? 0 : dim) + i] -
               c.bias[h * dim + i];
      }
    }
  }
  ProductRun run(c, report);
  run.name = "append rows of " + std::to_string(dim) + (normed ? " normed" : "");
  Device<Element> in(qkv);
  Device<float> dn(norms);
  AppendRows<Element> a{in.get(), run.bias.get(), normed ? dn.get() : nullptr,
                        normed ? dn.get() + dim : nullptr, 1e-6f, run.args(Tail::append)};
  must(launch_append_rows(a, 32, {}), "append rows");
  run.check_append();
}

// Rows drawn with the bests that the head leaves are drawn as by the op alone: greedy, at a
// temperature, with a penalty, of logits that are NaN.
void test_draws(Report& report, int processors) {
  constexpr int n = 1000, rows = 6, words = (n + 31) / 32;
  ProductCase c(n, 512, rows, rows, 77);
  for (int i = 0; i < 512; ++i) c.x[size_t{4} * 512 + i] = 0x7fc0;
  ProductRun run(c, report);
  std::vector<DrawSpec> specs(rows);
  for (int r = 0; r < rows; ++r) specs[r].draws = 1, specs[r].seed = 5, specs[r].position = r;
  specs[1].temperature = 0.8f, specs[1].top_p = 0.9f, specs[1].logprobs = 3;
  specs[2].context = 0, specs[2].penalty = 4.0f;
  specs[3].temperature = 1.0f, specs[3].top_k = 7, specs[3].context = 1, specs[3].penalty = 1.5f;
  specs[5].draws = 0;
  const std::vector<uint32_t> all(2 * words, 0xa5a5a5a5u);
  Device<DrawSpec> draws(specs);
  Device<uint32_t> seen(all);
  Device<DrawnToken> drawn(rows);
  Device<uint64_t> ranks(rows * kParts);
  TailArgs t = run.args(Tail::best);
  run.best.fill(0);
  must(launch_skinny<Tail::best>(run.product(Tail::best, t), run.input(), t,
                                 choose_skinny(rows, n, 512, processors), {}), "head");
  const DrawRows a{run.y.get(), n, n, draws.get(), seen.get(), 2, drawn.get(), rows, nullptr};
  must(launch_draws(a, ranks.get(), nullptr), "draws");
  const auto want = drawn.read();
  const auto context = seen.read();
  seen.write(all), drawn.fill(0x5a);
  const auto* bests = reinterpret_cast<const uint64_t*>(run.best.get());
  must(launch_draws(a, Bests{bests, 1, kRowSlots, true}, nullptr), "draws of known bests");
  const auto got = drawn.read();
  const bool same = std::memcmp(got.data(), want.data(), rows * sizeof(DrawnToken)) == 0;
  report.expect("draws of known bests", same && seen.read() == context ? 0 : 1, 0);
  report.expect("draws of NaN", want[4].status == DrawStatus::not_finite ? 0 : 1, 0);
  report.expect("draws with a penalty", want[2].status == DrawStatus::drawn &&
                                                context != all ? 0 : 1, 0);
}

}  // namespace
}  // namespace limpet::gpu_test

// gpu_kernels_test [N]: every N-th case of the larger tables (for a memory checker), else all.
int main(int argc, char** argv) {
  using namespace limpet;
  using namespace limpet::gpu_test;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int devices = 0;
  const GpuError there = LIMPET_GPU(GetDeviceCount)(&devices);
  if (there != GpuError{} || devices == 0) {
    std::printf("skipped: no GPU (%s)\n", there == GpuError{} ? "the driver knows none"
                                                              : LIMPET_GPU(GetErrorString)(there));
    return kSkipped;
  }
  GpuProperties properties;
  must(LIMPET_GPU(GetDeviceProperties)(&properties, 0), "device");
  if (properties.major != 9) {
    std::printf("skipped: %s is of another architecture than these kernels\n", properties.name);
    return kSkipped;
  }
  Report report;
  test_embed(report);
  test_norm(report);
  test_gate(report);
  test_draws(report, properties.multiProcessorCount);
  for (const int dim : {64, 80, 128, 256}) {
    test_append_rows<float>(report, 4, 2, dim, false);
    test_append_rows<float>(report, 4, 2, dim, true);
    test_append_rows<uint16_t>(report, 4, 2, dim, true);
  }
  std::printf("rows: %d checks, %d failures\n", report.checks, report.failures);
  const int each = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
  test_products(report, properties.multiProcessorCount, each);
  std::printf("products: %d checks, %d failures\n", report.checks, report.failures);
  test_attention(report, properties.multiProcessorCount, each);
  std::printf("%s: %d checks, %d failures\n", properties.name, report.checks, report.failures);
  return report.failures != 0;
}
