#include "ops/advance/advance.h"
#include "ops/sample/sample.h"

namespace limpet::ops {

void run(const Advance&, CpuContext&, const Args& a) {
  const auto* drawn = reinterpret_cast<const DrawnToken*>(a.in[0].as<int32_t>());
  const int32_t* from = a.in[1].as<int32_t>();
  int32_t *ids = a.out[0].as<int32_t>(), *positions = a.out[1].as<int32_t>();
  auto* draws = reinterpret_cast<DrawSpec*>(a.out[2].as<int32_t>());
  const int64_t rows = true_rows(a, a.out[0].cols());
  // `from` ascends, so no row is overwritten before it is read.
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t r = from[i];
    require(r >= i && r < a.out[0].cols(), "Advance", "a row that is not there");
    ids[i] = drawn[r].status == DrawStatus::drawn ? drawn[r].token : 0;
    positions[i] = positions[r] + 1;
    draws[i] = draws[r];
    ++draws[i].position;
  }
}

}  // namespace limpet::ops
