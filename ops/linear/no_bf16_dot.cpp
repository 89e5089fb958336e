#include "ops/linear/bf16_dot.h"

namespace limpet::ops {

const Bf16Dot* bf16_dot() { return nullptr; }

}  // namespace limpet::ops
