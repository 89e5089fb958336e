// Every operator that the engine can emit. Adding one here makes each backend fail to link until
// it has a kernel for it, and a check of its operands.
#pragma once
#include <variant>

#include "ops/add/add.h"
#include "ops/advance/advance.h"
#include "ops/embedding/embedding.h"
#include "ops/gated_linear/gated_linear.h"
#include "ops/gather_rows/gather_rows.h"
#include "ops/linear/linear.h"
#include "ops/paged_attention/paged_attention.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rope_append/rope_append.h"
#include "ops/rope_table/rope_table.h"
#include "ops/sample/sample.h"
#include "ops/silu_mul/silu_mul.h"

namespace limpet::ops {

using Op = std::variant<Embedding, RmsNorm, Linear, GatedLinear, RopeTable, RopeAppend,
                        PagedAttention, SiluMul, Add, GatherRows, Sample, Advance>;

// "Linear"; for messages.
const char* name_of(const Op& op);

}  // namespace limpet::ops
