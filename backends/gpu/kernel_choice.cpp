#include "backends/gpu/kernel_choice.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <utility>

namespace limpet {
namespace {

constexpr std::string_view kFormat = "limpet kernel choices 1";
constexpr size_t kMostText = 1 << 20, kMostField = 512, kMostNames = 16, kMostNews = 256;

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

// The text of a file; nothing when it is not there. More than a table can have is cut off.
std::optional<std::string> text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text(kMostText + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

}  // namespace

std::vector<size_t> descend(
    std::span<const size_t> counts, std::vector<size_t> start, double gain,
    const std::function<double(const std::vector<size_t>&)>& seconds) {
  std::vector<size_t> best = std::move(start);
  double least = seconds(best);
  for (size_t product = 0; product < counts.size(); ++product) {
    const size_t before = best[product];
    for (size_t candidate = 0; candidate < counts[product]; ++candidate) {
      if (candidate == before) continue;
      std::vector<size_t> other = best;
      other[product] = candidate;
      const double now = seconds(other);
      if (now < least * (1 - gain)) least = now, best = std::move(other);
    }
  }
  return best;
}

std::vector<size_t> descend_from_each(
    std::span<const size_t> counts, const std::vector<std::vector<size_t>>& starts, double gain,
    const std::function<double(const std::vector<size_t>&)>& seconds) {
  std::vector<size_t> best = descend(counts, starts.at(0), gain, seconds);
  if (starts.size() == 1) return best;
  double least = seconds(best);
  for (size_t i = 1; i < starts.size(); ++i) {
    std::vector<size_t> other = descend(counts, starts[i], gain, seconds);
    if (other == best) continue;
    const double now = seconds(other);
    if (now < least * (1 - gain)) least = now, best = std::move(other);
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

ChoiceMemory& ChoiceMemory::of_process() {
  static ChoiceMemory memory;
  return memory;
}

std::optional<ChoiceTable::Names> ChoiceMemory::find(const std::string& key) {
  const std::scoped_lock held(lock_);
  const ChoiceTable::Names* names = table_.find(key);
  return names == nullptr ? std::nullopt : std::optional(*names);
}

void ChoiceMemory::put(const std::string& key, ChoiceTable::Names names) {
  const std::scoped_lock held(lock_);
  table_.put(key, std::move(names));
  if (!path_.empty()) write();
}

std::string ChoiceMemory::keep_in(const std::string& path) {
  const std::scoped_lock held(lock_);
  path_ = path;
  ChoiceTable all;
  const auto text = text_of(path);
  std::string wrong = text ? all.read(*text) : std::string{};
  const size_t there = all.size();
  all.add(table_);
  table_ = std::move(all);
  if (table_.size() > there) write();
  return wrong;
}

void ChoiceMemory::tell(std::string line) {
  const std::scoped_lock held(lock_);
  add_news(std::move(line));
}

void ChoiceMemory::add_news(std::string line) {
  if (news_.size() < kMostNews) news_.push_back(std::move(line));
}

std::vector<std::string> ChoiceMemory::news() {
  const std::scoped_lock held(lock_);
  return std::exchange(news_, {});
}

ChoiceTable ChoiceMemory::known() {
  const std::scoped_lock held(lock_);
  return table_;
}

void ChoiceMemory::forget() {
  const std::scoped_lock held(lock_);
  table_ = {};
  path_.clear();
}

// Whole or not at all; what another process has added before stays. Of two that write at the same
// moment one may lose what it found, which is then timed once more.
void ChoiceMemory::write() {
  ChoiceTable all;
  if (const auto text = text_of(path_)) (void)all.read(*text);
  all.add(table_);
  const std::string next =
      path_ + "." + std::to_string(getpid()) + "." + std::to_string(std::random_device{}());
  std::ofstream out(next, std::ios::binary | std::ios::trunc);
  out << all.text();
  out.close();
  std::error_code error;
  if (out) std::filesystem::rename(next, path_, error);
  if (out && !error) return;
  add_news("kernel choices cannot be written to " + path_);
  std::filesystem::remove(next, error);
}

}  // namespace limpet
