// Sums over sixteen lanes in one order, whatever the width of the vectors that made them.
// Included once per target, after hwy/highway.h.
#if defined(LIMPET_OPS_SIXTEEN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LIMPET_OPS_SIXTEEN_INL_H_
#undef LIMPET_OPS_SIXTEEN_INL_H_
#else
#define LIMPET_OPS_SIXTEEN_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace limpet::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE float SumOfSixteen(float* lanes) {
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace limpet::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
