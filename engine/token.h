// The token id that every part of limpet speaks of. schema/types.h declares the same alias, since
// neither folder may include the other.
#pragma once
#include <cstdint>

namespace limpet {

using Token = int32_t;

}  // namespace limpet
