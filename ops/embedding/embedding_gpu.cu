#include "ops/linear/weight.h"
#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

constexpr int kThreads = 256;

// An id outside the table, which only a failed draw leaves, gives zeros.
template <class Element>
__global__ void embed_rows(const int32_t* ids, const Element* table, int64_t table_stride,
                           int64_t vocab, float* x, int64_t x_stride, int64_t rows, int64_t n,
                           const int32_t* count) {
  if (blockIdx.x >= counted_rows(count, rows)) return;
  const int64_t r = blockIdx.x, i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (i >= n) return;
  const int64_t id = ids[r];
  const bool known = id >= 0 && id < vocab;
  x[r * x_stride + i] = known ? as_float(table[id * table_stride + i]) : 0.0f;
}

template <class Element>
void launch(GpuContext& gpu, const Args& a) {
  const TensorView &table = a.in[1], &x = a.out[0];
  const dim3 grid(static_cast<unsigned>(x.rows()),
                  static_cast<unsigned>((x.cols() + kThreads - 1) / kThreads));
  embed_rows<<<grid, kThreads, 0, gpu.stream>>>(
      a.in[0].as<int32_t>(), table.as<Element>(),
      table.layout == Layout::linear ? weight_stride(table.cols()) : table.cols(), table.shape[0],
      x.as<float>(), x.stride(), x.rows(), x.cols(), a.count);
}

}  // namespace

void run(const Embedding&, GpuContext& gpu, const Args& a) {
  a.in[1].dtype == DType::f32 ? launch<float>(gpu, a) : launch<uint16_t>(gpu, a);
}

}  // namespace limpet::ops
