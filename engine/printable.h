// Text of unknown origin for a message on a terminal: control characters become '?'.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace limpet::engine {

// At most `most` bytes of `text`, without C0 and C1 control characters and DEL. `text` is UTF-8.
inline std::string printable(std::string_view text, size_t most = 128) {
  std::string out(text.substr(0, most));
  for (size_t i = 0; i < out.size(); ++i) {
    const auto c = static_cast<unsigned char>(out[i]);
    const auto next = static_cast<unsigned char>(i + 1 < out.size() ? out[i + 1] : 0);
    if (c < 0x20 || c == 0x7f) out[i] = '?';
    if (c == 0xc2 && next >= 0x80 && next < 0xa0) out[i] = out[i + 1] = '?';  // U+0080 … U+009F
  }
  return out;
}

}  // namespace limpet::engine
