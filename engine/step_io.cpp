#include "engine/step_io.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>

#include "engine/graph.h"

namespace limpet::engine {
namespace {

constexpr int64_t kCounts = kCountOutputs + 3;  // hidden, logits, draws

// Elements, rounded up so that each input begins at a cache line.
int64_t line(int64_t elements) { return (elements + 15) / 16 * 16; }

int64_t context_words(int64_t vocab) { return (vocab + 31) / 32; }

}  // namespace

StepIo::StepIo(Backend& backend, const Sizes& sizes) : backend_(backend), sizes_(sizes) {
  from_ = counts_ + line(kCounts);
  token_ids_ = from_ + line(sizes.rows);
  positions_ = token_ids_ + line(sizes.rows);
  row_sequence_ = positions_ + line(sizes.rows);
  wanted_rows_ = row_sequence_ + line(sizes.rows);
  page_table_ = wanted_rows_ + line(sizes.wanted);
  inputs_ = backend.allocate(4 * (page_table_ + sizes.sequences * sizes.pages));
  hidden_ = backend.allocate(4 * sizes.wanted * sizes.hidden);
  logits_ = backend.allocate(4 * sizes.wanted * sizes.vocab);
  draws_ = backend.allocate(sizes.wanted * int64_t{sizeof(ops::DrawSpec)});
  drawn_ = backend.allocate(sizes.wanted * int64_t{sizeof(ops::DrawnToken)});
  context_ = backend.allocate(4 * sizes.sequences * context_words(sizes.vocab));
  compile_advance();
}

void StepIo::compile_advance() {
  const int64_t rows = std::min({sizes_.sequences, sizes_.wanted, ops::kMostAdvanced});
  Program p{.name = "advance"};
  const auto value = [&](const char* name, Shape shape, ValueKind kind) {
    p.values.push_back({.name = name, .dtype = DType::i32, .shape = shape, .kind = kind});
  };
  value("counts", {kCounts}, ValueKind::input);
  value("drawn", {rows, ops::kDrawnWords}, ValueKind::input);
  value("from", {rows}, ValueKind::input);
  value("token_ids", {rows}, ValueKind::handle);
  value("positions", {rows}, ValueKind::handle);
  value("draws", {rows, ops::kDrawWords}, ValueKind::handle);
  p.counts = 0;
  p.steps = {{.op = ops::Advance{}, .inputs = {1, 2}, .outputs = {3, 4, 5}, .count = kCountRows}};
  advance_ = backend_.compile(p);
  advance_->bind(0, *inputs_, 4 * counts_);
  advance_->bind(1, *drawn_);
  advance_->bind(2, *inputs_, 4 * from_);
  advance_->bind(3, *inputs_, 4 * token_ids_);
  advance_->bind(4, *inputs_, 4 * positions_);
  advance_->bind(5, *draws_);
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
      executable.bind(id, value.name == "logits"  ? *logits_
                          : value.name == "drawn" ? *drawn_
                                                  : *hidden_);
    } else if (value.name == "draws") {
      executable.bind(id, *draws_);
    } else if (value.name == "draw_context") {
      executable.bind(id, *context_);
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

// `wanted`: rows of hidden states, of logits, and of draws.
void StepIo::stage(const StepPlan& plan, const KvCache& kv, int64_t pages,
                   std::array<int32_t, 3> wanted) {
  const std::vector<int32_t> table = page_table(plan.sequences, kv, pages);
  staging_.resize(static_cast<size_t>(page_table_ + std::ssize(table)));
  put(counts_, std::array{static_cast<int32_t>(plan.rows()), static_cast<int32_t>(plan.wanted())});
  put(counts_ + kCountOutputs, wanted);
  put(token_ids_, plan.token_ids);
  put(positions_, plan.positions);
  put(row_sequence_, plan.row_sequence);
  put(wanted_rows_, plan.wanted_rows);
  put(page_table_, table);
  backend_.write(*inputs_, 0, staging_.data(), 4 * std::ssize(staging_));
}

void StepIo::write(const StepPlan& plan, const KvCache& kv, int64_t pages, ReadBack what) {
  const auto wanted = static_cast<int32_t>(plan.wanted());
  stage(plan, kv, pages, {wanted, what == ReadBack::logits ? wanted : 0, 0});
}

std::span<const float> StepIo::read(ReadBack what, int64_t rows) {
  const auto n = static_cast<size_t>(rows * width(what));
  if (values_.size() < n) values_.resize(n);
  const Buffer& from = what == ReadBack::logits ? *logits_ : *hidden_;
  if (n > 0) backend_.read(from, 0, values_.data(), static_cast<int64_t>(n) * 4);
  return std::span(values_).first(n);
}

void StepIo::write_draws(const StepPlan& plan, const KvCache& kv, int64_t pages,
                         std::span<const ops::DrawSpec> draws,
                         std::span<const std::vector<Token>> contexts) {
  const auto wanted = static_cast<int32_t>(plan.wanted());
  stage(plan, kv, pages, {wanted, wanted, wanted});
  if (!draws.empty()) {
    backend_.write(*draws_, 0, draws.data(), std::ssize(draws) * int64_t{sizeof(ops::DrawSpec)});
  }
  if (contexts.empty()) return;
  const auto words = static_cast<size_t>(context_words(sizes_.vocab));
  std::vector<uint32_t> bits(contexts.size() * words);
  for (size_t s = 0; s < contexts.size(); ++s) {
    for (const Token t : contexts[s]) {
      if (t < 0 || t >= sizes_.vocab) continue;
      bits[s * words + static_cast<size_t>(t / 32)] |= 1u << (t % 32);
    }
  }
  backend_.write(*context_, 0, bits.data(), 4 * std::ssize(bits));
}

void StepIo::advance(std::span<const int32_t> from, std::span<const SequenceId> sequences,
                     const KvCache& kv, int64_t pages) {
  const auto rows = static_cast<int32_t>(from.size());
  const auto at = [&](int64_t i) { return staging_.begin() + i; };
  if (staging_[static_cast<size_t>(counts_)] != rows ||
      !std::equal(from.begin(), from.end(), at(from_))) {
    put(counts_, std::array{rows, rows, rows, rows, rows});
    put(from_, from);
    backend_.write(*inputs_, 0, staging_.data(), 4 * (from_ + rows));
  }
  const std::vector<int32_t> table = page_table(sequences, kv, pages);
  const auto end = static_cast<size_t>(page_table_ + std::ssize(table));
  if (staging_.size() < end || !std::equal(table.begin(), table.end(), at(page_table_))) {
    staging_.resize(std::max(staging_.size(), end));
    put(page_table_, table);
    backend_.write(*inputs_, 4 * page_table_, table.data(), 4 * std::ssize(table));
  }
  advance_->run();
}

void StepIo::begin_drawn(int64_t rows) {
  backend_.begin_read(*drawn_, 0, rows * int64_t{sizeof(ops::DrawnToken)});
}

std::vector<ops::DrawnToken> StepIo::finish_drawn(int64_t rows) {
  std::vector<ops::DrawnToken> drawn(static_cast<size_t>(rows));
  backend_.finish_read(drawn.data(), rows * int64_t{sizeof(ops::DrawnToken)});
  return drawn;
}

}  // namespace limpet::engine
