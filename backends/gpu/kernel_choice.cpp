#include "backends/gpu/kernel_choice.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace limpet {
namespace {

constexpr std::string_view kFormat = "limpet kernel choices 1";
constexpr size_t kMostField = 512, kMostNames = 16;

bool is_field(std::string_view s) {
  return !s.empty() && s.size() <= kMostField &&
         std::ranges::all_of(s, [](char c) { return c >= ' ' && c <= '~'; });
}

// The next piece of `rest` up to `end`, which is taken off with it.
std::string_view next(std::string_view& rest, char end) {
  const size_t at = rest.find(end);
  const std::string_view piece = rest.substr(0, at);
  rest.remove_prefix(at == std::string_view::npos ? rest.size() : at + 1);
  return piece;
}

}  // namespace

Descent descend(std::span<const size_t> counts, std::vector<size_t> start, double gain,
                const SecondsOf& seconds) {
  Descent best{std::move(start)};
  best.at_start = best.seconds = seconds(best.numbers);
  for (size_t product = 0; product < counts.size(); ++product) {
    const size_t before = best.numbers[product];
    for (size_t candidate = 0; candidate < counts[product]; ++candidate) {
      if (candidate == before) continue;
      std::vector<size_t> other = best.numbers;
      other[product] = candidate;
      const double now = seconds(other);
      if (now < best.seconds * (1 - gain)) best.seconds = now, best.numbers = std::move(other);
    }
  }
  return best;
}

Descent descend_from_each(std::span<const size_t> counts,
                          const std::vector<std::vector<size_t>>& starts, double gain,
                          const SecondsOf& seconds) {
  Descent best = descend(counts, starts.at(0), gain, seconds);
  for (size_t i = 1; i < starts.size(); ++i) {
    Descent other = descend(counts, starts[i], gain, seconds);
    if (other.seconds >= best.seconds * (1 - gain)) continue;
    other.at_start = best.at_start;
    best = std::move(other);
  }
  return best;
}

const ChoiceTable::Names* ChoiceTable::find(const std::string& key) const {
  const auto at = of_.find(key);
  return at == of_.end() ? nullptr : &at->second;
}

void ChoiceTable::put(const std::string& key, Names names) {
  if (!is_field(key) || names.empty() || names.size() > kMostNames ||
      !std::ranges::all_of(names, is_field)) {
    throw std::logic_error("kernel choices: a key or name that no file can hold: " + key);
  }
  of_[key] = std::move(names);
}

std::string ChoiceTable::text() const {
  std::string text(kFormat);
  text += '\n';
  for (const auto& [key, names] : of_) {
    text += key;
    for (const std::string& name : names) text += '\t' + name;
    text += '\n';
  }
  return text;
}

std::string ChoiceTable::read(std::string_view text) {
  if (text.size() > kMostText) return "longer than 1 MiB";
  if (next(text, '\n') != kFormat) return "its first line is not \"" + std::string(kFormat) + "\"";
  std::map<std::string, Names> found;
  for (size_t line = 2; !text.empty(); ++line) {
    std::string_view rest = next(text, '\n');
    const std::string key(next(rest, '\t'));
    Names names;
    while (!rest.empty() && names.size() <= kMostNames) names.emplace_back(next(rest, '\t'));
    if (!is_field(key) || names.empty() || names.size() > kMostNames ||
        !std::ranges::all_of(names, is_field)) {
      return "line " + std::to_string(line) + " is no choice";
    }
    found[key] = std::move(names);
  }
  for (auto& [key, names] : found) of_[key] = std::move(names);
  return {};
}

void ChoiceTable::add(const ChoiceTable& other) {
  for (const auto& [key, names] : other.of_) of_[key] = names;
}

}  // namespace limpet
