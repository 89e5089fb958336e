// Code points that Unicode 15.0 to 16.0 assigned. Split patterns are read as the Oniguruma of the
// reference implementation reads them, whose tables are 16.0's; those of PCRE2 10.42 are 14.0's.
// Source: the categories in UnicodeData.txt 16.0 (unicode.org) of what is unassigned in 14.0.
#pragma once
#include <string>
#include <string_view>

namespace limpet::engine {

// Those of a general category ("L", "Lu", ...) as items of a PCRE2 class, \x{31350}-\x{323af}...;
// empty when there are none.
std::string unicode_additions(std::string_view category);

}  // namespace limpet::engine
