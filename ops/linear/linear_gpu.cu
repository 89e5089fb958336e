#include "ops/linear/product.cuh"

namespace limpet::ops {

void run(const Linear& op, GpuContext& gpu, const Args& a) {
  const TensorView &x = a.in[0], &weight = a.in[1], &y = a.out[0];
  const TensorView residual = op.residual ? a.in.back() : TensorView{};
  const Product product{.x = x.as<float>(),
                        .x_stride = x.stride(),
                        .weight = weight.data,
                        .rows = y.rows(),
                        .n = y.cols(),
                        .k = x.cols(),
                        .y = y.as<float>(),
                        .y_stride = y.stride(),
                        .bias = op.bias ? a.in[2].as<float>() : nullptr,
                        .residual = residual.as<float>(),
                        .residual_stride = residual.stride(),
                        .count = a.count,
                        .exact = op.exact};
  multiply(gpu, product, weight.dtype);
}

}  // namespace limpet::ops
