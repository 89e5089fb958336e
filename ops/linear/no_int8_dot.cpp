#include "ops/linear/int8_dot.h"

namespace limpet::ops {

Int8Multiply int8_dot() { return nullptr; }

}  // namespace limpet::ops
