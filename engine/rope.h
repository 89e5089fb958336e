// Rotary positions: what a config says of them, and the frequencies that follow. Plain data.
//
// Everything but `dynamic` is a table of frequencies that never changes. Dynamic scaling (NTK) has
// frequencies that depend on the length of the sequence, while keys that are resident were rotated
// long ago. Here a row is rotated as in a sequence that ends at it: its frequencies depend on its
// own position alone, so nothing that is resident is ever wrong, and neither chunks, batches nor a
// rebuilt cache change a bit. That is what Hugging Face's implementation does when it decodes
// token by token; where that prefills a prompt beyond the trained length in one go, it rotates all
// of the prompt as its end (`least_length` imitates this, for comparing).
#pragma once
#include <cstdint>
#include <vector>

namespace limpet::engine {

enum class RopeKind : uint8_t { plain, linear, llama3, yarn, dynamic };

struct RopeConfig {
  RopeKind kind = RopeKind::plain;
  double theta = 10000.0;
  double factor = 1.0;            // all but plain
  double original_context = 0;    // trained length: llama3, yarn, dynamic
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32, beta_slow = 1;                  // yarn
  double attention_factor = 1;    // yarn: cosines and sines are times this
  bool truncate = true;           // yarn: the ramp's ends are whole dimensions
  int64_t least_length = 0;       // dynamic: rows are rotated as in a sequence this long at least
  bool bf16_frequencies = false;  // rounded to bf16, as some references have them
  bool operator==(const RopeConfig&) const = default;
};

// Rotary frequencies [head_dim / 2], radians per position; of dynamic, those up to the trained
// length. Linear: theta^(-2i/d) / factor. llama3: as in the Llama 3.1 reference (long waves divided
// by factor, a smooth ramp between). yarn: Peng et al. 2023, https://arxiv.org/abs/2309.00071.
std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t head_dim);

// yarn's attention_factor where a config says none; mscales of 0 are those that it does not say.
double yarn_attention_factor(double factor, double mscale, double mscale_all_dim);

}  // namespace limpet::engine
