// Weights into the layouts that GPU kernels read (ops/linear/weight.h), converted on the device.
#pragma once
#include <cstdint>

#include "ops/gpu.h"

namespace limpet {
inline namespace LIMPET_GPU_NAMESPACE {

// Row i of `from` [rows, cols] becomes row first_row + i * row_step of `to`, whose rows are
// `stride` elements apart; what is beyond cols is left. bf16 is rounded to nearest even.
struct PackRows {
  const void* from = nullptr;
  DType from_dtype = DType::f32;
  void* to = nullptr;
  DType to_dtype = DType::f32;
  int64_t rows = 0, cols = 0, stride = 0, first_row = 0, row_step = 1;
};
void pack_rows(const PackRows& pack, GpuStream stream);

}  // namespace LIMPET_GPU_NAMESPACE
}  // namespace limpet
