// y = x · weightᵀ + bias + residual.
//
//   in:  x f32 [rows, k], weight f32|bf16|i8 [n, k] (Layout::linear),
//        bias f32 [n] if `bias`, residual f32 [rows, n] if `residual`
//   out: y f32 [rows, n]; may be the residual itself
// Several weights over the same x are one Linear: pack them together, q then k then v.
// f32 weights: products and sums in f32. bf16 weights: x is rounded to bf16 (nearest even), the
// products are exact, the sums are f32; with `exact` x is not rounded, and a product with weights
// that bf16 holds has the bits of one with f32 weights.
// i8 weights: w ≈ scale[row] * integer within ±127. Each 64 elements of x in a row become integers
// within ±127 of a scale of their own; sums over such a group are exact, those over groups f32.
// The bits of y[r, i] depend on x[r] and weight[i] alone:
// each sum runs over k in one order, whatever the batch, the threads or the vector width (on a GPU:
// within one of its kernels, which the shapes choose; there `exact` means to no less than 16 bits).
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

struct Linear {
  bool bias = false;
  bool residual = false;
  bool exact = false;  // of bf16 weights
  bool operator==(const Linear&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const Linear& op, const Args& args);
void run(const Linear& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
