// y = x / sqrt(mean(x^2) + eps) * weight, over each of the `heads` equal slices of a row
// (Zhang and Sennrich 2019; with heads > 1 the query/key norm of Qwen3).
//
//   in:  x f32 [rows, heads * n], weight f32 [n]
//   out: y f32 [rows, heads * n]; may be x itself
// A row's bits depend on that row alone.
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct RmsNorm {
  float eps = 1e-6f;
  int64_t heads = 1;
  bool operator==(const RmsNorm&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const RmsNorm& op, const Args& args);
void run(const RmsNorm& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
