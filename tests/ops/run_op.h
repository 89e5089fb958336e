// One op as a program of one step, on any backend, with host data in and out.
#pragma once
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <ostream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/make_backend.h"
#include "gtest/gtest.h"

namespace limpet::test {

// Floats stand for f32 and bf16 elements; `ints` for i32.
struct Tensor {
  DType dtype = DType::f32;
  Layout layout = Layout::dense;
  Shape shape;
  std::vector<float> values;
  std::vector<int32_t> ints;
  int64_t row_stride = 0;
};

inline Tensor f32(Shape shape, std::vector<float> values) {
  return {DType::f32, Layout::dense, shape, std::move(values), {}, 0};
}
inline Tensor i32(Shape shape, std::vector<int32_t> ints) {
  return {DType::i32, Layout::dense, shape, {}, std::move(ints), 0};
}
inline Tensor weight(Layout layout, DType dtype, Shape shape, std::vector<float> values) {
  return {dtype, layout, shape, std::move(values), {}, 0};
}

constexpr float kUntouched = 12345.5f;

inline float rounded(DType dtype, float v) {
  return dtype == DType::bf16 ? f32_from_bf16(bf16_from_f32(v)) : v;
}

class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed) {}
  float one(float spread = 1.0f) {
    return spread * static_cast<float>(static_cast<int64_t>(bits_() >> 40) - (1 << 23)) / (1 << 23);
  }
  std::vector<float> many(int64_t n, float spread = 1.0f) {
    std::vector<float> all(static_cast<size_t>(n));
    for (float& v : all) v = one(spread);
    return all;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits_() % static_cast<uint64_t>(n)); }

 private:
  std::mt19937_64 bits_;
};

// Every backend that this build has and this machine can open.
inline std::vector<Device> devices() {
  std::vector<Device> all;
  for (const DeviceKind kind :
       {DeviceKind::cpu, DeviceKind::cuda, DeviceKind::hip, DeviceKind::vulkan, DeviceKind::metal,
        DeviceKind::mlx, DeviceKind::webgpu}) {
    try {
      make_backend({kind, 0}, {.threads = 1});
      all.push_back({kind, 0});
    } catch (const std::runtime_error&) {
    }
  }
  return all;
}

class OnEveryDevice : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { backend_ = make_backend(GetParam(), {.threads = 2}); }
  std::unique_ptr<Backend> backend_;
};

#define LIMPET_ON_EVERY_DEVICE(suite)                                       \
  INSTANTIATE_TEST_SUITE_P(Device, suite, testing::ValuesIn(devices()),     \
                           [](const testing::TestParamInfo<Device>& info) { \
                             return std::string(name_of(info.param.kind));  \
                           })

inline std::unique_ptr<Buffer> packed(Backend& backend, const Tensor& t) {
  const int64_t rows = t.shape.rows(), cols = t.shape.cols();
  std::vector<WeightSource> sources = {{t.values.data(), DType::f32, rows, cols}};
  if (t.layout == Layout::gated) {
    sources = {{t.values.data(), DType::f32, rows / 2, cols},
               {t.values.data() + rows / 2 * cols, DType::f32, rows / 2, cols}};
  }
  return backend.pack(t.layout, t.dtype, sources);
}

inline std::unique_ptr<Buffer> uploaded(Backend& backend, const Tensor& t) {
  if (t.dtype == DType::bf16 || t.layout != Layout::dense) return packed(backend, t);
  const bool whole = t.dtype == DType::i32;
  const auto bytes = static_cast<int64_t>((whole ? t.ints.size() : t.values.size()) * 4);
  auto buffer = backend.allocate(bytes);
  backend.write(*buffer, 0, whole ? static_cast<const void*>(t.ints.data()) : t.values.data(),
                bytes);
  return buffer;
}

inline std::vector<float> downloaded(Backend& backend, const Buffer& buffer, const Tensor& like) {
  std::vector<float> values(like.values.size());
  if (like.dtype == DType::f32) {
    backend.read(buffer, 0, values.data(), static_cast<int64_t>(values.size() * 4));
    return values;
  }
  std::vector<uint16_t> raw(values.size());
  backend.read(buffer, 0, raw.data(), static_cast<int64_t>(raw.size() * 2));
  for (size_t i = 0; i < raw.size(); ++i) values[i] = f32_from_bf16(raw[i]);
  return values;
}

struct RunOptions {
  int32_t count = -1;  // true rows; -1: all
  int updated = -1;    // this input is a handle that the op writes: it is read back into `in`
};

// The output, of which rows beyond `count` should still be kUntouched.
inline std::vector<float> run_op(Backend& backend, const ops::Op& op, std::vector<Tensor>& in,
                                 Shape out, RunOptions options = {}) {
  Program program{.name = "one op"};
  ProgramStep step{.op = op};
  std::vector<std::unique_ptr<Buffer>> buffers;
  const auto add = [&](const Tensor& t, ValueKind kind, const std::string& name) {
    program.values.push_back({.name = name,
                              .dtype = t.dtype,
                              .shape = t.shape,
                              .kind = kind,
                              .layout = t.layout,
                              .row_stride = t.row_stride});
    buffers.push_back(uploaded(backend, t));
    return static_cast<ValueId>(program.values.size() - 1);
  };
  for (size_t i = 0; i < in.size(); ++i) {
    const bool is_weight = in[i].layout != Layout::dense;
    const bool updated = static_cast<int>(i) == options.updated;
    step.inputs.push_back(add(in[i],
                              is_weight ? ValueKind::weight
                              : updated ? ValueKind::handle
                                        : ValueKind::input,
                              "in " + std::to_string(i)));
  }
  Tensor result = f32(out, std::vector<float>(static_cast<size_t>(out.elements()), kUntouched));
  step.outputs.push_back(add(result, ValueKind::output, "out"));
  if (options.count >= 0) {
    program.counts = add(i32({1}, {options.count}), ValueKind::input, "counts");
    step.count = 0;
  }
  program.steps.push_back(step);

  const auto executable = backend.compile(program);
  for (size_t i = 0; i < buffers.size(); ++i) {
    executable->bind(static_cast<ValueId>(i), *buffers[i]);
  }
  executable->run();
  if (options.updated >= 0) {
    auto& t = in[static_cast<size_t>(options.updated)];
    t.values = downloaded(backend, *buffers[static_cast<size_t>(options.updated)], t);
  }
  return downloaded(backend, *buffers[in.size()], result);
}

// |got - want| within tolerance × (1 + |want|) in the true rows; the rest untouched.
inline void expect_rows(const std::vector<float>& got, const std::vector<double>& want,
                        double tolerance, int64_t cols, int64_t true_rows) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (static_cast<int64_t>(i) / cols >= true_rows) {
      ASSERT_EQ(got[i], kUntouched) << "element " << i << " is beyond the true rows";
    } else {
      ASSERT_NEAR(got[i], want[i], tolerance * (1 + std::abs(want[i]))) << "element " << i;
    }
  }
}

// The same bits.
inline bool same_bits(const float* a, const float* b, int64_t n) {
  return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}

}  // namespace limpet::test

namespace limpet {
inline void PrintTo(const Device& device, std::ostream* out) { *out << to_string(device); }
}  // namespace limpet
