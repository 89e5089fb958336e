#include "engine/handles.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace limpet::engine {

Handles::Entry& Handles::entry(std::string_view name) {
  const auto it = entries_.find(name);
  if (it == entries_.end()) throw std::logic_error("no handle '" + std::string(name) + "'");
  return it->second;
}

Buffer& Handles::at(std::string_view name) const {
  return *const_cast<Handles*>(this)->entry(name).memory;
}

void Handles::bind(const std::string& name, int64_t bytes) {
  bind(name, backend_.allocate(bytes));
}

void Handles::bind(const std::string& name, std::unique_ptr<Buffer> memory) {
  entries_[name] = {std::move(memory), nullptr};
}

void Handles::install(const std::string& name, std::span<const float> rows, int64_t dim,
                      int64_t upper) {
  if (dim <= 0 || std::ssize(rows) % dim != 0 || std::ssize(rows) / dim > upper) {
    throw std::logic_error("install: rows that do not fit the bucket of handle '" + name + "'");
  }
  bind(name, upper * dim * 4);
  if (!rows.empty()) backend_.write(at(name), 0, rows.data(), std::ssize(rows) * 4);
}

std::vector<float> Handles::read(std::string_view name, int64_t elements) const {
  std::vector<float> values(static_cast<size_t>(elements));
  backend_.read(at(name), 0, values.data(), elements * 4);
  return values;
}

void Handles::feed(const std::string& output, const std::string& handle) {
  entry(handle);
  feeds_[output] = handle;
}

void Handles::feed_layers(int64_t layers) {
  for (int64_t i = 0; i < layers; ++i) {
    feed("output_" + std::to_string(1 + 2 * i), "past_k_" + std::to_string(i));
    feed("output_" + std::to_string(2 + 2 * i), "past_v_" + std::to_string(i));
  }
}

void Handles::attach(const Program& program, Executable& executable) {
  for (size_t i = 0; i < program.values.size(); ++i) {
    const ProgramValue& value = program.values[i];
    const auto id = static_cast<ValueId>(i);
    if (value.kind == ValueKind::handle) executable.bind(id, at(value.name));
    const auto feed = feeds_.find(value.name);
    if (value.kind != ValueKind::output || feed == feeds_.end()) continue;
    Entry& e = entry(feed->second);
    // The handle takes this memory over, so it must be no smaller than what it replaces.
    const int64_t bytes = std::max(value.bytes(), e.memory->bytes());
    if (e.spare == nullptr || e.spare->bytes() < bytes) e.spare = backend_.allocate(bytes);
    executable.bind(id, *e.spare);
  }
}

void Handles::run(const Program& program, Executable& executable) {
  if (!feeds_.empty()) attach(program, executable);
  executable.run();
  for (const ProgramValue& value : program.values) {
    const auto feed = feeds_.find(value.name);
    if (value.kind != ValueKind::output || feed == feeds_.end()) continue;
    Entry& e = entry(feed->second);
    const int64_t written = value.bytes(), all = e.memory->bytes();
    if (written < all) backend_.copy(*e.spare, written, *e.memory, written, all - written);
    std::swap(e.memory, e.spare);
  }
}

}  // namespace limpet::engine
