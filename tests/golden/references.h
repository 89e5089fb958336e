// The reference checkpoints of this folder, and the ways in which each of them is verified: what
// the tests of every device run.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "clients/verify/verify.h"

namespace limpet::test {

inline const std::vector<std::string>& references() {
  static const std::vector<std::string> names = {
      "llama-gqa",     "qwen2-gqa7", "qwen3-qknorm",        "mistral-swa",   "limpet-tiny",
      "llama-yarn",    "qwen2-dynamic", "mistral-yarn-mscale", "qwen3-linear", "llama-wide-heads"};
  return names;
}

// How a reference's prompt is given.
struct VerifyWay {
  std::string name;
  client::VerifyOptions options;
};
inline std::vector<VerifyWay> verify_ways() {
  return {{"whole", {}},
          {"chunks_of_7", {.chunk = 7}},
          {"ragged_batch_of_5", {.batch_with = 4}},
          {"ragged_chunks_of_7", {.chunk = 7, .batch_with = 4}}};
}

// What a device makes of a reference, in `report`; `greedy`: tokens that there are to match.
struct Verified {
  client::VerifyReport report;
  int64_t greedy = 0;
};
inline Verified verify_reference(const std::string& device, const std::string& name,
                                 engine::Precision precision, const VerifyWay& way) {
  const bool embedded = name == "limpet-tiny";
  const client::Golden golden =
      client::load_golden("tests/golden/" + name + "/golden.safetensors");
  auto options = client::verify_engine_options(golden, way.options);
  options.model_dir = embedded ? "models/limpet-tiny" : "tests/golden/" + name;
  options.device = device;
  options.precision = precision;
  client::VerifyOptions checked = way.options;
  // These random checkpoints' references were computed by models cast to bf16 as a whole.
  const bool rounded = name == "llama-gqa" || name == "qwen2-gqa7" || name == "qwen3-qknorm" ||
                       name == "mistral-swa";
  checked.rope = rounded ? client::ReferenceRope::bf16 : client::ReferenceRope::f32;
  return {client::verify_checkpoint(options, golden, checked), std::ssize(golden.greedy_ids)};
}

}  // namespace limpet::test
