// Sizes of heads that the attention kernels for whole decoders are compiled for, a case each; with
// others a decoder runs op by op.
#pragma once

namespace limpet::ops {

constexpr bool has_fast_attention(int head_dim) {
  for (const int size : {32, 48, 64, 80, 96, 112, 128, 160, 192, 256}) {
    if (head_dim == size) return true;
  }
  return false;
}

}  // namespace limpet::ops
