// A worker's core with a model that is a pure function of the tokens in its KV: what the loop
// around the core does, without device, text or network.
#pragma once
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <set>

#include "tests/worker/first_attempt.h"
#include "worker/core.h"

namespace limpet::worker {

using namespace std::chrono_literals;

constexpr Token kVocab = 97;

// The token that follows `tokens`.
inline Token fake_next(std::span<const Token> tokens, uint64_t seed) {
  uint64_t h = 0x9e3779b97f4a7c15ull ^ seed;
  for (const Token t : tokens) h = (h ^ static_cast<uint64_t>(t + 1)) * 0x100000001b3ull;
  return static_cast<Token>((h ^ (h >> 29)) % kVocab);
}

struct Rig {
  explicit Rig(CoreOptions o = {}, int32_t pages = 64, bool connect = true)
      : options(std::move(o)), kv({.page_tokens = 4, .pages = pages, .share_prefixes = true}) {
    options.name = "w";
    options.incarnation = 7;
    options.vocab = kVocab;
    core.emplace(options, kv);
    if (!connect) return;
    give(Connected{});
    tell(Registered{.incarnation = 7,
                    .heartbeat_ms = 100,
                    .lease_ms = 1000,
                    .release = {},
                    .resume = {},
                    .drop = {}});
    sent.clear();
  }

  void give(const Event& event) {
    Output out;
    core->step(now, event, out);
    carry_out(out);
  }
  template <typename M>
  void tell(M message) {
    give(FromBroker{std::move(message)});
  }

  void carry_out(Output& out) {
    for (auto& m : out.send) sent.push_back(std::move(m));
    for (const Command& command : out.commands) {
      if (const auto* t = std::get_if<Tokenize>(&command)) {
        give(Tokenized{t->job, t->attempt, t->spec->tokens, t->spec->text});  // text: an error
      } else if (const auto* o = std::get_if<OpenText>(&command)) {
        seeds[raw(o->job)] = o->seed;
        open.insert({raw(o->job), raw(o->attempt)});
        if (!o->output.empty() && o->output.back() == end_token) {
          give(AlreadyEnded{o->job, o->attempt, FinishReason::stop, "tail"});
        }
      } else if (const auto* c = std::get_if<CloseText>(&command)) {
        EXPECT_EQ(open.erase({raw(c->job), raw(c->attempt)}), 1u);
      } else if (const auto* move = std::get_if<MovePages>(&command)) {
        moves.push_back(*move);
        const auto holds = [&](const PageMove& p, bool to) {
          const bool disk = to ? move->kind == MoveKind::demote
                               : move->kind == MoveKind::restore_disk;
          const bool host = to ? move->kind == MoveKind::spill
                               : move->kind == MoveKind::restore_host ||
                                     move->kind == MoveKind::demote;
          const int64_t room = disk   ? options.tiers.disk_pages
                               : host ? options.tiers.host_pages
                                      : kv.total_pages();
          const int32_t page = to ? p.to : p.from;
          return page >= 0 && page < room;
        };
        for (const PageMove& p : move->pages) EXPECT_TRUE(holds(p, false) && holds(p, true));
      } else {
        transfers.push_back(command);
      }
    }
  }

  // The memory that moves go to and from; a row of KV is the token that it was computed from.
  void write(engine::SequenceId sequence, int64_t row, Token token) {
    row_at(pool, kv.page_table(sequence)[static_cast<size_t>(row / 4)], row % 4) = token;
  }
  Token& row_at(std::map<int64_t, Token>& memory, int32_t page, int64_t row) {
    return memory[page * int64_t{4} + row];
  }
  // Carries out the move that began first, or its first pages.
  void finish_move(int64_t good = -1) {
    ASSERT_FALSE(moves.empty());
    const MovePages move = moves.front();
    moves.pop_front();
    take_copies();
    if (good < 0) good = std::ssize(move.pages);
    auto& from = move.kind == MoveKind::spill          ? pool
                 : move.kind == MoveKind::restore_disk ? disk
                                                       : host;
    auto& to = move.kind == MoveKind::spill    ? host
               : move.kind == MoveKind::demote ? disk
                                               : pool;
    for (int64_t i = 0; i < std::ssize(move.pages); ++i) {
      const PageMove& p = move.pages[static_cast<size_t>(i)];
      for (int64_t row = 0; row < 4; ++row) {
        row_at(to, p.to, row) = i < good ? row_at(from, p.from, row) : Token{-7};
      }
    }
    give(PagesMoved{move.id, good, good < std::ssize(move.pages) ? "damaged" : ""});
  }
  void finish_moves() {
    while (!moves.empty()) finish_move();
  }
  void take_copies() {
    for (const engine::PageCopy& c : kv.take_copies()) {
      for (int64_t row = 0; row < 4; ++row) row_at(pool, c.to, row) = row_at(pool, c.from, row);
    }
  }

  Step plan() {
    Output out;
    Step step = core->plan(now, out);
    carry_out(out);
    int64_t rows = 0;
    for (const StepRow& row : step.rows) rows += std::ssize(row.tokens);
    EXPECT_LE(rows, options.token_budget);
    return step;
  }

  StepDone run(const Step& step) {
    take_copies();
    StepDone done;
    for (const StepRow& row : step.rows) {
      EXPECT_TRUE(kv.reserved(row.sequence, std::ssize(row.tokens)));
      for (size_t i = 0; i < row.tokens.size(); ++i) {
        write(row.sequence, kv.length(row.sequence) + static_cast<int64_t>(i), row.tokens[i]);
      }
      kv.commit(row.sequence, row.tokens);
      const auto tokens = kv.tokens(row.sequence);
      for (size_t i = 0; i < tokens.size() && options.tiers.host_pages > 0; ++i) {
        const int32_t page = kv.page_table(row.sequence)[i / 4];
        EXPECT_EQ(row_at(pool, page, static_cast<int64_t>(i % 4)), tokens[i]) << "other KV";
      }
      RowResult r{.job = row.job,
                  .attempt = row.attempt,
                  .sampled = row.sample,
                  .token = 0,
                  .text = {},
                  .logprobs = {},
                  .tail_text = {},
                  .error = {}};
      if (row.sample) {
        EXPECT_EQ(kv.length(row.sequence), row.position);
        r.token = fake_next(kv.tokens(row.sequence), seeds.at(raw(row.job)));
        r.end_token = r.token == end_token;
        r.text = std::to_string(r.token) + " ";
        if (r.end_token || row.last) r.tail_text = "tail";
      }
      done.rows.push_back(r);
    }
    return done;
  }

  // One step; false when there is nothing to run.
  bool turn() {
    const Step step = plan();
    if (step.empty()) return false;
    give(run(step));
    return true;
  }
  void settle() {
    int turns = 0;
    while (turn()) ASSERT_LT(++turns, 100000) << "does not come to an end";
  }

  Dispatch dispatch(uint64_t job, uint64_t session, std::vector<Token> prompt, int64_t base = 0,
                    int32_t max_tokens = 4) {
    auto spec = std::make_shared<JobSpec>();
    spec->kind = InputKind::tokens;
    spec->tokens = std::move(prompt);
    spec->max_tokens = max_tokens;
    return first_attempt(job, session, std::move(spec), base, job);
  }

  template <typename M>
  std::vector<M> all() const {
    std::vector<M> found;
    for (const auto& m : sent) {
      if (const auto* one = std::get_if<M>(&m)) found.push_back(*one);
    }
    return found;
  }
  template <typename M>
  M last() const {
    auto found = all<M>();
    EXPECT_FALSE(found.empty()) << "no such message";
    return found.empty() ? M{} : found.back();
  }
  std::vector<Token> output_of(uint64_t job) const {
    std::vector<Token> ids;
    for (const auto& m : all<StepTokens>()) {
      for (const auto& row : m.rows) {
        if (raw(row.job) != job) continue;
        ids.resize(std::max(ids.size(), static_cast<size_t>(row.first_index)));
        ids.insert(ids.begin() + row.first_index, row.ids.begin(), row.ids.end());
        ids.resize(static_cast<size_t>(row.first_index) + row.ids.size());
      }
    }
    return ids;
  }

  CoreOptions options;
  engine::KvCache kv;
  std::optional<Core> core;
  Time now{};
  Token end_token = -1;  // one that the model never says
  std::vector<WorkerMessage> sent;
  std::vector<Command> transfers;  // what goes to other workers and to the pool
  std::deque<MovePages> moves;     // begun and not ended
  std::map<int64_t, Token> pool, host, disk;  // by page and row
  std::map<uint64_t, uint64_t> seeds;
  std::set<std::pair<uint64_t, uint32_t>> open;
};

// What an undisturbed worker says after `transcript`.
inline std::vector<Token> undisturbed(std::vector<Token> transcript, uint64_t seed, int64_t n) {
  std::vector<Token> output;
  for (int64_t i = 0; i < n; ++i) {
    output.push_back(fake_next(transcript, seed));
    transcript.push_back(output.back());
  }
  return output;
}

}  // namespace limpet::worker
