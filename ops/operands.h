// Questions that the ops' checks ask of their operands.
#pragma once
#include "ops/kernel.h"
#include "ops/tensor.h"

namespace limpet::ops {

inline bool is_dense(const TensorView& t, DType dtype, int rank) {
  return t.dtype == dtype && t.layout == Layout::dense && t.shape.rank == rank;
}
inline bool is_f32(const TensorView& t, int rank) { return is_dense(t, DType::f32, rank); }
inline bool is_i32(const TensorView& t, int rank) { return is_dense(t, DType::i32, rank); }
inline bool is_weight(const TensorView& t, Layout layout) {
  const bool packed_bytes = t.dtype == DType::i8 && layout != Layout::dense;
  return (t.dtype == DType::f32 || t.dtype == DType::bf16 || packed_bytes) && t.layout == layout &&
         t.shape.rank == 2;
}
inline bool has_counts(const Args& args, size_t in, size_t out) {
  return args.in.size() == in && args.out.size() == out;
}

}  // namespace limpet::ops
