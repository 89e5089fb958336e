// The step after one that drew a token for each of its rows: row i continues row from[i], with the
// token that was drawn for it.
//
//   in:  drawn i32 [rows, kDrawnWords], from i32 [rows], ascending
//   out: token_ids i32 [rows]: the drawn tokens (0 for a row whose draw failed),
//        positions i32 [rows] and draws i32 [rows, kDrawWords]: row from[i]'s own, one further
// The count is of rows. At most kMostAdvanced rows; they are all read before any is written.
#pragma once
#include "ops/kernel.h"

namespace limpet::ops {

constexpr int64_t kMostAdvanced = 1024;

struct Advance {
  bool operator==(const Advance&) const = default;
};

// Throws std::logic_error when the operands are not as above.
void check(const Advance& op, const Args& args);
void run(const Advance& op, CpuContext& cpu, const Args& args);

}  // namespace limpet::ops
