// Device memory and random data for the tests and benches of single GPU kernels.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <string>
#include <vector>

#include "ops/gpu_isa.cuh"

namespace limpet::gpu_test {

inline void must(GpuError error, const char* what) {
  if (error == GpuError{}) return;
  std::printf("%s: %s\n", what, LIMPET_GPU(GetErrorString)(error));
  std::exit(1);
}
inline void finish() {
  must(LIMPET_GPU(GetLastError)(), "launch");
  must(LIMPET_GPU(DeviceSynchronize)(), "run");
}

// Device memory that fills itself with NaN (all bits set).
template <class T>
class Device {
 public:
  explicit Device(size_t n = 0) : n_(n) {
    if (n == 0) return;
    must(LIMPET_GPU(Malloc)(reinterpret_cast<void**>(&data_), n * sizeof(T)), "memory");
    poison();
  }
  explicit Device(const std::vector<T>& v) : Device(v.size()) { write(v); }
  Device(Device&& other) noexcept : data_(std::exchange(other.data_, nullptr)), n_(other.n_) {}
  Device& operator=(Device&& other) noexcept {
    std::swap(data_, other.data_), std::swap(n_, other.n_);
    return *this;
  }
  ~Device() {
    if (data_ != nullptr) (void)LIMPET_GPU(Free)(data_);
  }
  void poison() { fill(0xff); }
  void fill(int byte) {
    finish();
    must(LIMPET_GPU(Memset)(data_, byte, n_ * sizeof(T)), "fill");
    finish();
  }
  void write(const std::vector<T>& v) {
    finish();
    must(LIMPET_GPU(Memcpy)(data_, v.data(), v.size() * sizeof(T), LIMPET_GPU(MemcpyDefault)),
         "write");
    finish();
  }
  std::vector<T> read() const {
    std::vector<T> v(n_);
    finish();
    must(LIMPET_GPU(Memcpy)(v.data(), data_, n_ * sizeof(T), LIMPET_GPU(MemcpyDefault)), "read");
    return v;
  }
  T* get() const { return data_; }
  size_t size() const { return n_; }

 private:
  T* data_ = nullptr;
  size_t n_ = 0;
};

inline float wide(uint16_t b) {
  const uint32_t bits = uint32_t{b} << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline uint16_t narrow(double d) {
  const auto f = static_cast<float>(d);
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15ull + 1) {}
  double next() {  // -1 … 1
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<double>(static_cast<int64_t>(state >> 11)) / 4503599627370496.0 - 1.0;
  }
  std::vector<uint16_t> bf16(size_t n, double amplitude, double mean = 0) {
    std::vector<uint16_t> v(n);
    for (auto& e : v) e = narrow(mean + amplitude * next());
    return v;
  }
  std::vector<float> f32(size_t n, double amplitude, double mean = 0) {
    std::vector<float> v(n);
    for (auto& e : v) e = static_cast<float>(mean + amplitude * next());
    return v;
  }
};

// ‖got - want‖ / ‖want‖; infinite when anything is NaN.
inline double relative(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, all = 0;
  if (got.size() != want.size()) return INFINITY;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]), all += want[i] * want[i];
  }
  return std::isfinite(error) && all > 0 ? std::sqrt(error / all) : INFINITY;
}
inline std::vector<double> doubles(const std::vector<uint16_t>& v) {
  std::vector<double> d;
  for (const uint16_t e : v) d.push_back(wide(e));
  return d;
}
inline std::vector<double> doubles(const std::vector<float>& v) { return {v.begin(), v.end()}; }

}  // namespace limpet::gpu_test
