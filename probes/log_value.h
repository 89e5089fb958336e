// A value of a line of the log, in quotes: what others have chosen (names, messages) cannot end the
// value or the line and pass for another field. " and \ are escaped, control characters are \xNN.
#pragma once
#include <string>
#include <string_view>

namespace limpet::probes {

inline std::string log_value(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + '"';
}

}  // namespace limpet::probes
