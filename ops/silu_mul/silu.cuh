// silu(a) * b on a GPU.
#pragma once
#include "ops/gpu.h"

namespace limpet::ops {
namespace {

__device__ inline float silu_mul(float a, float b) { return a / (1.0f + expf(-a)) * b; }

}  // namespace
}  // namespace limpet::ops
