// Whether a bench's steps compute what they should: the same step on an engine that runs op by op,
// over the same KV.
#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "bench/engine_scene.h"

namespace limpet::bench {

class CheckedStep {
 public:
  // Takes the memory of a second engine of these options; std::runtime_error when there is none.
  CheckedStep(const Options& o, const std::vector<Point>& points);

  // Runs a step of these rows on `e`, and on the other engine over copies of their sequences' KV.
  // Afterwards e's sequences are as long as before. Adds what came out to `j`; std::runtime_error
  // when the logits are further apart than activations of bf16 explain.
  void compare(engine::Engine& e, std::span<const engine::StepRow> rows, nlohmann::json& j);

 private:
  engine::SequenceId copy_of(engine::Engine& e, engine::SequenceId id);

  std::unique_ptr<engine::Engine> plain_;
};

}  // namespace limpet::bench
