#include "engine/tokenizer_normalize.h"

#include <utf8proc.h>

#include <algorithm>

#include "engine/tokenizer_utf8.h"

namespace limpet::engine {
namespace {

// Text that the form cannot change: ASCII; for NFC all below U+0300 too.
bool surely_normal(const UnicodeForm& form, std::string_view text) {
  const unsigned char limit = form.compose && !form.compatibility ? 0xCC : 0x80;
  return std::all_of(text.begin(), text.end(), [limit](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < limit;
  });
}

int combining_class(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// utf8proc orders combining marks in quadratic time; a text may be nothing but marks.
void order_marks(std::vector<utf8proc_int32_t>& text) {
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && combining_class(text[end]) != 0) ++end;
    std::stable_sort(text.begin() + static_cast<std::ptrdiff_t>(i),
                     text.begin() + static_cast<std::ptrdiff_t>(end),
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    i = std::max(end, i + 1);
  }
}

std::string too_long(size_t max_bytes) {
  return "normalized, the text is longer than the " + std::to_string(max_bytes) +
         " bytes that are left for it";
}

std::string apply(const UnicodeForm& form, std::string& text, size_t max_bytes) {
  if (surely_normal(form, text)) return "";
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE |
                                                      (form.compatibility ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> wide;
  wide.reserve(text.size());
  utf8proc_int32_t parts[64];
  for (std::string_view rest = text; !rest.empty();) {
    const Utf8Step step = utf8_step(rest);
    rest.remove_prefix(step.length);
    const auto c = static_cast<utf8proc_int32_t>(step.character);
    const auto n = utf8proc_decompose_char(c, parts, std::size(parts), options, nullptr);
    if (n < 0 || n > static_cast<utf8proc_ssize_t>(std::size(parts))) {
      wide.push_back(c);
    } else {
      wide.insert(wide.end(), parts, parts + n);
    }
    if (wide.size() > max_bytes) return too_long(max_bytes);
  }
  order_marks(wide);
  auto length = static_cast<utf8proc_ssize_t>(wide.size());
  if (form.compose) {
    length = utf8proc_normalize_utf32(
        wide.data(), length, static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  }
  if (length < 0) return "Unicode normalization failed on this text";
  text.clear();
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    append_utf8(static_cast<char32_t>(wide[static_cast<size_t>(i)]), text);
  }
  return "";
}

std::string apply(const PrependText& prepend, std::string& text, size_t max_bytes) {
  if (text.empty()) return "";
  if (prepend.text.size() > max_bytes) return too_long(max_bytes);
  text.insert(0, prepend.text);
  return "";
}

std::string apply(const ReplaceText& replace, std::string& text, size_t max_bytes) {
  std::vector<Pattern::Range> matches;
  if (std::string error = replace.pattern.find_all(text, matches); !error.empty()) return error;
  if (matches.empty()) return "";
  size_t size = text.size();
  for (const auto& m : matches) size -= m.end - m.begin;
  if (size > max_bytes) return too_long(max_bytes);
  if (replace.with.size() > (max_bytes - size) / matches.size()) return too_long(max_bytes);
  std::string out;
  out.reserve(size + matches.size() * replace.with.size());
  size_t from = 0;
  for (const auto& m : matches) {
    out.append(text, from, m.begin - from).append(replace.with);
    from = m.end;
  }
  text = std::move(out.append(text, from));
  return "";
}

}  // namespace

std::string normalize(const std::vector<Normalizer>& steps, std::string& text, size_t max_bytes) {
  for (const Normalizer& step : steps) {
    std::string error = std::visit([&](const auto& s) { return apply(s, text, max_bytes); }, step);
    if (!error.empty()) return error;
    if (text.size() > max_bytes) return too_long(max_bytes);
  }
  return "";
}

}  // namespace limpet::engine
