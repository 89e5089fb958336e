#include "backends/gpu/choice_memory.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <utility>

namespace limpet {
namespace {

constexpr size_t kMostNews = 256;

// The text of a file; nothing when it is not there. More than a table can have is cut off.
std::optional<std::string> text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text(ChoiceTable::kMostText + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

}  // namespace

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
