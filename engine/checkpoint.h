// Where weights come from: a model folder's safetensors, or a seed.
//
// A folder holds model.safetensors, or several files listed by model.safetensors.index.json: then
// each tensor must be in the file that the index names, and in no other.
// Throws std::runtime_error that names the file or tensor and what is wrong. Not thread-safe.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/hir.h"
#include "engine/safetensors.h"

namespace limpet::engine {

// Floating-point elements of one tensor, f32, f16 or bf16; `owned` holds them when no file does.
struct WeightData {
  StoredTensor tensor;
  std::shared_ptr<const std::vector<uint16_t>> owned;
};

class Checkpoint {
 public:
  static Checkpoint open(const std::string& dir);
  // bf16 values of the spread that training starts from, 1 for norms; the same for the same seed.
  static Checkpoint random(uint64_t seed);

  // Throws unless all of them are there, shaped as declared and of a dtype that can be read. Reads
  // no tensor's data.
  void check(std::span<const hir::WeightDecl> decls) const;
  // The tensor, whose shape must be the declared one.
  WeightData get(const hir::WeightDecl& decl) const;
  // Of names, shapes, dtypes and samples of the data, so that two checkpoints are told apart.
  // Reads a little of every tensor.
  uint64_t fingerprint() const;

 private:
  StoredTensor find(const hir::WeightDecl& decl) const;

  std::vector<SafeTensors> files_;
  std::optional<uint64_t> seed_;
};

// FNV-1a over bytes, continuing from `hash`.
uint64_t hash_bytes(std::string_view bytes, uint64_t hash = 0xcbf29ce484222325ull);

}  // namespace limpet::engine
