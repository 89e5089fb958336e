// Whether logits are the same bit for bit, and if not, where they differ.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

namespace limpet::test {

// Rows of `width`.
inline ::testing::AssertionResult same_bits(std::span<const float> got, std::span<const float> want,
                                            int64_t width) {
  if (got.size() != want.size()) {
    return ::testing::AssertionFailure() << got.size() << " values instead of " << want.size();
  }
  const auto differs = [&](size_t i) { return std::memcmp(&got[i], &want[i], sizeof(float)) != 0; };
  size_t first = got.size(), count = 0, rows = 0, last_row = got.size();
  for (size_t i = 0; i < got.size(); ++i) {
    if (!differs(i)) continue;
    first = std::min(first, i);
    const size_t row = i / static_cast<size_t>(width);
    if (row != last_row) ++rows, last_row = row;
    ++count;
  }
  if (count == 0) return ::testing::AssertionSuccess();
  const size_t row = first / static_cast<size_t>(width);
  const size_t column = first % static_cast<size_t>(width);
  return ::testing::AssertionFailure()
         << count << " of " << got.size() << " values differ, in " << rows << " of "
         << got.size() / static_cast<size_t>(width) << " rows; the first is row " << row
         << ", column " << column << ": " << got[first] << " instead of " << want[first];
}

}  // namespace limpet::test
