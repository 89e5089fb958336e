// gpu-kernels-bench: the fast GPU kernels alone, on random data, as replays of captured graphs over
// weights and KV that exceed the cache many times. One JSON line a measurement; rbw is the
// read-only bandwidth measured in the same run, fraction = bytes / rbw / time.
//
//   gpu-kernels-bench step MODEL BATCH CTX    a decode step, its cuts searched first
//   gpu-kernels-bench attention BATCH CTX     paged attention of 8B's layers
//   gpu-kernels-bench prefill ROWS            8B, by chunks of ROWS
//   gpu-kernels-bench turn2 ROWS PAST         8B, ROWS new rows over PAST resident tokens
#include <functional>

#include "bench/gpu_step.cuh"

namespace limpet::gpu_bench {
namespace {

GpuProperties device;
double rbw = 0;  // bytes a second

template <int Ahead>
__global__ void read_only(const uint16_t* p, size_t n, uint32_t* out) {
  uint32_t x = 0;
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i + (Ahead - 1) * stride < n;
       i += Ahead * stride) {
    uint4 v[Ahead];
#pragma unroll
    for (int a = 0; a < Ahead; ++a) v[a] = load_weights(p + (i + a * stride) * 8);
#pragma unroll
    for (int a = 0; a < Ahead; ++a) x ^= v[a].x ^ v[a].y ^ v[a].z ^ v[a].w;
  }
  if (x == 0x9e3779b9) *out = x;
}

// Median milliseconds of a replay of what f enqueues; negative when the device refuses it.
double time_ms(GpuStream stream, const std::function<void()>& f, int replays = 6) {
  f();
  must(LIMPET_GPU(StreamSynchronize)(stream), "run");
  GpuGraph graph;
  GpuGraphExec ready;
  must(LIMPET_GPU(StreamBeginCapture)(stream, LIMPET_GPU(StreamCaptureModeRelaxed)), "capture");
  f();
  must(LIMPET_GPU(StreamEndCapture)(stream, &graph), "capture");
  must(gpu_instantiate(&ready, graph), "instantiate");
  static GpuEvent a, b;
  if (a == nullptr) LIMPET_GPU(EventCreate)(&a), LIMPET_GPU(EventCreate)(&b);
  std::vector<float> times;
  for (int i = 0; i < 5; ++i) {
    must(LIMPET_GPU(GraphLaunch)(ready, stream), "replay");
    must(LIMPET_GPU(EventRecord)(a, stream), "event");
    for (int k = 0; k < replays; ++k) must(LIMPET_GPU(GraphLaunch)(ready, stream), "replay");
    must(LIMPET_GPU(EventRecord)(b, stream), "event");
    must(LIMPET_GPU(EventSynchronize)(b), "replay");
    float ms = 0;
    must(LIMPET_GPU(EventElapsedTime)(&ms, a, b), "time");
    times.push_back(ms / static_cast<float>(replays));
  }
  LIMPET_GPU(GraphExecDestroy)(ready), LIMPET_GPU(GraphDestroy)(graph);
  std::sort(times.begin(), times.end());
  return times[2];
}

void measure_rbw(const Decoder& d) {
  const Device<uint16_t> own(d.gate_w.size() < (size_t{1} << 30) ? size_t{1} << 30 : 0);
  const Device<uint16_t>& from = own.size() != 0 ? own : d.gate_w;
  uint32_t* out = reinterpret_cast<uint32_t*>(d.best());
  const auto n = from.size() / 8;
  for (const int threads : {512, 1024}) {
    for (const int blocks : {1, 2, 4}) {
      if (threads * blocks > 2048) continue;
      const double ms = time_ms(d.stream, [&] {
        read_only<16><<<d.processors * blocks, threads, 0, d.stream>>>(from.get(), n, out);
      }, 3);
      rbw = std::max(rbw, static_cast<double>(n) * 16 / ms * 1e3);
    }
  }
}
void print(const char* what, const std::string& case_name, double bytes, double ms,
           const std::string& more = "") {
  std::printf("{\"bench\":\"%s\",\"case\":\"%s\",\"device\":\"%s\",\"ms\":%.5f,\"bytes\":%.0f,"
              "\"rbw\":%.4e,\"fraction\":%.4f%s}\n",
              what, case_name.c_str(), device.name, ms, bytes, rbw, bytes / rbw / ms * 1e3,
              more.c_str());
}

std::string describe(const Cut& c) {
  char s[80];
  if (const StreamCut& few = c.few.stream; c.skinny && few.tile != 0) {
    std::snprintf(s, sizeof s, "streamed %d parts %d mates %d blocks %d", few.tile, few.parts,
                  few.mates, few.blocks);
  } else if (c.skinny) {
    std::snprintf(s, sizeof s, "skinny groups %d split %d", c.few.groups, c.few.split);
  } else {
    std::snprintf(s, sizeof s, "%s %d next %d", c.gemv.bulk ? "bulk" : "rows",
                  c.gemv.blocks_per_processor, c.gemv.next_after);
  }
  return s;
}
std::vector<Cut> candidates(const Decoder& d, Kind kind) {
  std::vector<Cut> all;
  const int k = kind == kDown ? d.m.inter : kind == kOut ? d.m.heads * d.m.dim : d.m.hidden;
  if (d.rows == 1) {
    for (const GemvCut& g : gemv_cuts(k)) all.push_back({false, g, {}});
  }
  if (k % 64 == 0) {
    for (const SkinnyCut& cut : skinny_cuts(d.rows, k, d.m.dim)) all.push_back({true, {}, cut});
  }
  return all;
}

Plan default_plan(const Decoder& d) {
  Plan plan;
  for (int k = 0; k < kKinds; ++k) {
    const int width = k == kDown ? d.m.inter : k == kOut ? d.m.heads * d.m.dim : d.m.hidden;
    const int n = k == kQkv      ? d.m.qkv()
                  : k == kGateUp ? 2 * d.m.inter
                  : k == kHead   ? d.m.vocab
                                 : d.m.hidden;
    plan.cuts[k] = {d.rows > 1 || prefers_skinny(n, width, d.processors),
                    choose_gemv(n, width, d.processors),
                    choose_skinny(d.rows, n, width, d.processors)};
  }
  return plan;
}
// Each product in a chain over all layers, then one at a time in the whole step.
Plan search(const Decoder& d, bool many) {
  Plan plan;
  std::vector<std::pair<double, Cut>> found[kKinds];
  for (int kind = 0; kind < kKinds; ++kind) {
    const int chain = kind == kHead ? 4 : d.m.layers;
    for (const Cut& cut : candidates(d, static_cast<Kind>(kind))) {
      const double us = time_ms(d.stream, [&] {
        for (int l = 0; l < chain; ++l) {
          d.project(static_cast<Kind>(kind), kind == kHead ? 0 : l, cut,
                    l > 0 ? Start::early : Start::plain);
        }
      }, 3) * 1e3 / chain;
      found[kind].push_back({us, cut});
    }
    std::sort(found[kind].begin(), found[kind].end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    plan.cuts[kind] = found[kind][0].second;
    const double bytes = d.weight_bytes(static_cast<Kind>(kind));
    for (size_t i = 0; i < found[kind].size() && (i < 4 || d.rows == 1); ++i) {
      print("product", std::string(kKindNames[kind]) + " " + describe(found[kind][i].second), bytes,
            found[kind][i].first / 1e3);
    }
  }
  const auto timed = [&](const Plan& p) {
    return time_ms(d.stream, [&] { d.step(p, many, Start::early); }, 4);
  };
  double best = timed(plan);
  if (const Plan other = default_plan(d); timed(other) < best) best = timed(other), plan = other;
  for (int kind = 0; kind < 2 * kKinds; ++kind) {
    auto& cuts = found[kind % kKinds];
    for (size_t i = 0; i < cuts.size() && i < 6; ++i) {
      Plan other = plan;
      other.cuts[kind % kKinds] = cuts[i].second;
      const double ms = timed(other);
      if (ms < best * 0.9995) best = ms, plan = other;
    }
  }
  return plan;
}

double step_bytes(const Decoder& d) {
  double bytes = d.weight_bytes(kHead) + d.kv_bytes() * d.m.layers;
  for (int k = 0; k < kHead; ++k) bytes += d.weight_bytes(static_cast<Kind>(k)) * d.m.layers;
  return bytes;
}
void bench_attention(const Decoder& d, const std::string& name, bool many) {
  const double ms = time_ms(d.stream, [&] {
    for (int l = 0; l < d.m.layers; ++l) {
      const Start start = l > 0 ? Start::early : Start::plain;
      many ? d.attend_many(l, start) : d.attend(l, start);
    }
  });
  print("attention", name, d.kv_bytes(), ms / d.m.layers);
}
void bench_step(const Decoder& d, const std::string& name, bool many) {
  bench_attention(d, name, many);
  const Plan plan = search(d, many);
  const auto timed = [&](Start start) {
    return time_ms(d.stream, [&] { d.step(plan, many, start); }, 20);
  };
  std::string cuts;
  for (int k = 0; k < kKinds; ++k) {
    cuts += std::string(k ? ", " : "") + kKindNames[k] + ": " + describe(plan.cuts[k]);
  }
  print("step", name, step_bytes(d), timed(Start::early), ",\"cuts\":\"" + cuts + "\"");
  print("step again", name, step_bytes(d), timed(Start::early));
  print("step without early start", name, step_bytes(d), timed(Start::plain));
  const Plan chosen = default_plan(d);
  print("step as chosen without a search", name, step_bytes(d),
        time_ms(d.stream, [&] { d.step(chosen, many, Start::early); }, 20));
  // The same bits with and without early starts, eager and captured.
  std::vector<float> first;
  bool same = true;
  for (const Start start : {Start::plain, Start::early, Start::early}) {
    std::vector<int32_t> tokens;
    for (int row = 0; row < d.rows; ++row) tokens.push_back(row * 7919 % d.m.vocab);
    const_cast<Device<int32_t>&>(d.ids).write(tokens);
    d.step(plan, many, start);
    const auto now = d.x.read();
    same = same && (first.empty() || std::memcmp(first.data(), now.data(), now.size() * 4) == 0) &&
           std::isfinite(now[0]);
    first = now;
  }
  std::printf("{\"check\":\"same bits with and without early start\",\"ok\":%s}\n",
              same ? "true" : "false");
}

void bench_prefill(const Decoder& d, const std::string& name) {
  const Device<uint8_t> workspace(size_t{64} << 20);
  std::string reason;
  const auto vendor = VendorProducts::open(workspace.get(), workspace.size(), &reason);
  if (vendor == nullptr) {
    std::printf("{\"bench\":\"prefill\",\"error\":\"%s\"}\n", reason.c_str());
    return;
  }
  const Shapes& m = d.m;
  const auto plan = [&](int n, int k, bool add) {
    const auto plans = vendor->plans({d.rows, n, k, k, add, add});
    return plans.empty() ? -1 : plans[0];
  };
  const int qkv = plan(m.qkv(), m.hidden, false), out = plan(m.hidden, m.heads * m.dim, true);
  const int gate = plan(2 * m.inter, m.hidden, false), down = plan(m.hidden, m.inter, true);
  const auto product = [&](int which, const void* x, const void* w, void* y) {
    must(vendor->run(which, x, w, y, d.stream), "cuBLASLt");
  };
  const auto layers = [&](bool products, bool attention, bool rest) {
    for (int l = 0; l < m.layers; ++l) {
      const Launch how{d.stream, Start::plain};
      const auto at = [&](const Device<uint16_t>& w, size_t n) { return w.get() + n * l; };
      const NormRows normed{d.x.get(), m.hidden, d.norm(2 * l), 1e-5f, d.rows, m.hidden,
                            d.scaled.get(), d.count.get()};
      if (rest) launch_norm_rows(normed, how);
      if (products) product(qkv, d.scaled.get(), at(d.qkv_w, size_t{1} * m.qkv() * m.hidden),
                            d.wide_rows.get());
      if (rest) {
        launch_append_rows(AppendRows<uint16_t>{d.wide_rows.get(), nullptr, nullptr, nullptr, 0,
                                                d.append_args(l)}, 32, how);
      }
      if (attention) d.attend_many(l, Start::plain);
      if (products) product(out, d.att.get(), at(d.out_w, size_t{1} * m.hidden * m.heads * m.dim),
                            d.x.get());
      if (rest) launch_norm_rows(normed, how);
      if (products) {
        product(gate, d.scaled.get(), at(d.gate_w, size_t{2} * m.inter * m.hidden),
                d.wide_rows.get());
      }
      if (rest) {
        launch_gate_rows(d.wide_rows.get(), d.gated.get(), d.rows, m.inter, d.count.get(), how);
      }
      if (products) product(down, d.gated.get(), at(d.down_w, size_t{1} * m.hidden * m.inter),
                            d.x.get());
    }
  };
  const_cast<Device<float>&>(d.x).fill(0);
  const_cast<Device<uint16_t>&>(d.scaled).fill(0x3c);
  const double all = time_ms(d.stream, [&] { layers(true, true, true); }, 2);
  const double products = time_ms(d.stream, [&] { layers(true, false, false); }, 2);
  const double attention = time_ms(d.stream, [&] { layers(false, true, false); }, 2);
  std::printf("{\"bench\":\"prefill\",\"case\":\"%s\",\"device\":\"%s\",\"ms\":%.3f,"
              "\"products_ms\":%.3f,\"attention_ms\":%.3f,\"rest_ms\":%.3f}\n",
              name.c_str(), device.name, all, products, attention,
              time_ms(d.stream, [&] { layers(false, false, true); }, 2));
}

int run(int argc, char** argv) {
  must(LIMPET_GPU(GetDeviceProperties)(&device, 0), "device");
  const std::string what = argc > 1 ? argv[1] : "";
  const int processors = device.multiProcessorCount;
  std::string name;
  for (int i = 2; i < argc; ++i) name += std::string(i > 2 ? " " : "") + argv[i];
  if (what == "step" && argc == 5) {
    for (const Shapes& m : kModels) {
      if (std::string(m.name) != argv[2]) continue;
      const int batch = std::atoi(argv[3]);
      Decoder d(m, batch, batch, std::atoi(argv[4]), processors);
      measure_rbw(d);
      bench_step(d, name, false);
      return 0;
    }
  } else if (what == "attention" && argc == 4) {
    const int batch = std::atoi(argv[2]);
    Shapes m = kModels[0];
    m.inter = 128, m.vocab = 128, m.hidden = 512;  // the layers' KV is what counts
    const double tokens = 1.0 * batch * std::atoi(argv[3]);
    m.layers = std::max(4, std::min(32, static_cast<int>(14e9 / 4096 / tokens)));
    Decoder d(m, batch, batch, std::atoi(argv[3]), processors);
    measure_rbw(d);
    bench_attention(d, name, false);
    return 0;
  } else if (what == "prefill" && argc == 3) {
    Decoder d(kModels[0], std::atoi(argv[2]), 1, 0, processors);
    bench_prefill(d, name);
    return 0;
  } else if (what == "turn2" && argc == 4) {
    Decoder d(kModels[0], std::atoi(argv[2]), 1, std::atoi(argv[3]), processors);
    measure_rbw(d);
    bench_step(d, "turn2 " + name, true);
    return 0;
  }
  std::fprintf(stderr, "usage: gpu-kernels-bench step MODEL BATCH CTX | attention BATCH CTX | "
                       "prefill ROWS | turn2 ROWS PAST\n");
  return 2;
}

}  // namespace
}  // namespace limpet::gpu_bench

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  return limpet::gpu_bench::run(argc, argv);
}
