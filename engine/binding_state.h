// For which bucket upper bound the persistent handles are laid out, per kind of program.
#pragma once
#include <array>
#include <cstdint>
#include <optional>

namespace limpet::engine {

enum class ProgramKind : uint8_t {
  decode,              // causal rows after the past
  decode_after_block,  // the decode step that follows an accepted multi-token block
  block                // a multi-token block
};

class BindingState {
 public:
  // The handles now stand as a program of this kind and upper bound leaves them; other kinds'
  // layouts are void.
  void bind(ProgramKind kind, int64_t upper) {
    reset();
    upper_[static_cast<size_t>(kind)] = upper;
  }
  std::optional<int64_t> upper(ProgramKind kind) const {
    return upper_[static_cast<size_t>(kind)];
  }
  bool bound() const { return upper_[0] || upper_[1] || upper_[2]; }
  void reset() { upper_ = {}; }
  // A block has advanced the past: what the block program was bound to is void, and the next
  // decode starts from the layout that the block left.
  void reset_after_block() {
    auto& block = upper_[static_cast<size_t>(ProgramKind::block)];
    if (!block) return;
    const auto left = block;
    reset();
    upper_[static_cast<size_t>(ProgramKind::decode_after_block)] = left;
  }

 private:
  std::array<std::optional<int64_t>, 3> upper_{};
};

}  // namespace limpet::engine
