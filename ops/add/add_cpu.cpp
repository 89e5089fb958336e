#include "ops/add/add.h"

namespace limpet::ops {

void run(const Add&, CpuContext& cpu, const Args& args) {
  const TensorView &a = args.in[0], &b = args.in[1], &y = args.out[0];
  cpu.parallel_for(true_rows(args, y.rows()), [&](int64_t r, int) {
    const float* from_a = a.as<float>() + r * a.stride();
    const float* from_b = b.as<float>() + r * b.stride();
    float* to = y.as<float>() + r * y.stride();
    for (int64_t i = 0; i < y.cols(); ++i) to[i] = from_a[i] + from_b[i];
  });
}

}  // namespace limpet::ops
