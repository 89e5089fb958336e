#include "engine/step_io.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "engine/graph.h"

namespace limpet::engine {
namespace {

// Elements, rounded up so that each input begins at a cache line.
int64_t line(int64_t elements) { return (elements + 15) / 16 * 16; }

}  // namespace

StepIo::StepIo(Backend& backend, const Sizes& sizes) : backend_(backend), sizes_(sizes) {
  token_ids_ = counts_ + line(kCountOutputs + 2);
  positions_ = token_ids_ + line(sizes.rows);
  row_sequence_ = positions_ + line(sizes.rows);
  wanted_rows_ = row_sequence_ + line(sizes.rows);
  page_table_ = wanted_rows_ + line(sizes.wanted);
  inputs_ = backend.allocate(4 * (page_table_ + sizes.sequences * sizes.pages));
  hidden_ = backend.allocate(4 * sizes.wanted * sizes.hidden);
  logits_ = backend.allocate(4 * sizes.wanted * sizes.vocab);
}

void StepIo::attach(const Program& program, Executable& executable) {
  const std::array inputs = {std::pair("counts", counts_),
                             std::pair("token_ids", token_ids_),
                             std::pair("positions", positions_),
                             std::pair("row_sequence", row_sequence_),
                             std::pair("wanted_rows", wanted_rows_),
                             std::pair("page_table", page_table_)};
  for (size_t i = 0; i < program.values.size(); ++i) {
    const ProgramValue& value = program.values[i];
    const auto id = static_cast<ValueId>(i);
    if (value.kind == ValueKind::output) {
      executable.bind(id, value.name == "logits" ? *logits_ : *hidden_);
    } else if (value.kind == ValueKind::input) {
      const auto it = std::ranges::find_if(
          inputs, [&](const auto& named) { return named.first == value.name; });
      if (it == inputs.end()) throw std::logic_error("no input '" + value.name + "' is known");
      executable.bind(id, *inputs_, 4 * it->second);
    }
  }
}

void StepIo::put(int64_t at, std::span<const int32_t> values) {
  std::ranges::copy(values, staging_.begin() + at);
}

void StepIo::write(const StepPlan& plan, const KvCache& kv, int64_t pages, ReadBack what) {
  const std::vector<int32_t> table = plan.page_table(kv, pages);
  staging_.resize(static_cast<size_t>(page_table_ + std::ssize(table)));
  const auto rows = static_cast<int32_t>(plan.rows());
  const auto wanted = static_cast<int32_t>(plan.wanted());
  // Outputs in the architectures' order: hidden, which logits are made of, and logits.
  put(counts_, std::array{rows, wanted, wanted, what == ReadBack::logits ? wanted : 0});
  put(token_ids_, plan.token_ids);
  put(positions_, plan.positions);
  put(row_sequence_, plan.row_sequence);
  put(wanted_rows_, plan.wanted_rows);
  put(page_table_, table);
  backend_.write(*inputs_, 0, staging_.data(), 4 * std::ssize(staging_));
}

std::span<const float> StepIo::read(ReadBack what, int64_t rows) {
  const auto n = static_cast<size_t>(rows * width(what));
  if (values_.size() < n) values_.resize(n);
  const Buffer& from = what == ReadBack::logits ? *logits_ : *hidden_;
  if (n > 0) backend_.read(from, 0, values_.data(), static_cast<int64_t>(n) * 4);
  return std::span(values_).first(n);
}

}  // namespace limpet::engine
