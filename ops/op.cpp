#include "ops/op.h"

#include <array>
#include <stdexcept>
#include <string>

namespace limpet {

void require(bool ok, const char* op, const char* what) {
  if (!ok) throw std::logic_error(std::string(op) + ": " + what);
}

namespace ops {

const char* name_of(const Op& op) {
  static constexpr std::array<const char*, std::variant_size_v<Op>> kNames = {
      "Embedding",  "RmsNorm",        "Linear",  "GatedLinear", "RopeTable",
      "RopeAppend", "PagedAttention", "SiluMul", "Add",         "GatherRows",
      "Sample",     "Advance"};
  return kNames.at(op.index());
}

}  // namespace ops
}  // namespace limpet
