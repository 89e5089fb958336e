// Runs the core's steps on an engine that draws tokens itself, and keeps its device busy while the
// host still learns what was drawn: when a step only decodes, the step after it is begun before its
// tokens are known, on the guess that the core will plan the same rows again. What the core plans
// decides: rows that it does not plan leave no trace, and rows beyond the guess run beside it.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "worker/event.h"

namespace limpet::worker {

class Lookahead {
 public:
  using SamplingOf = std::function<engine::SamplingOptions(const StepRow&)>;
  struct Outcome {
    std::string error;                  // not empty: no row has advanced
    std::vector<engine::Sampled> rows;  // of the step's rows; void where nothing is sampled
  };

  // `split`: rows that decode and prompts that are planned beside them run as two steps of the
  // engine, one right after the other, each in a shape of its own: worth it where shapes of many
  // rows are made for long runs of one sequence.
  explicit Lookahead(engine::Engine& engine, bool split = false)
      : engine_(engine), split_(split) {}

  // Afterwards the rows' tokens are committed, as by Engine::step().
  Outcome run(const Step& step, const SamplingOf& sampling_of);
  // Forgets what was begun ahead; before Engine::step(), and when there is nothing to do.
  void settle();

  int64_t ahead_steps() const { return ahead_steps_; }  // that were begun before they were planned
  int64_t wasted_rows() const { return wasted_rows_; }  // of them, that were not planned
  int64_t split_steps() const { return split_steps_; }
  int64_t after_steps() const { return after_steps_; }  // of the ahead ones: beside a prompt

 private:
  // A row that was begun ahead, as the core would plan it.
  struct Guess {
    JobNumber job{};
    Attempt attempt{};
    engine::SequenceId sequence{};
    int64_t position = 0;
    bool is(const StepRow& row) const {
      return row.sample && row.tokens.size() == 1 && row.job == job && row.attempt == attempt &&
             row.sequence == sequence && row.position == position;
    }
  };
  // A row of the step in flight, and the planned row that it computes.
  struct Match {
    int32_t in_flight = 0;
    size_t planned = 0;
  };
  std::vector<Match> match(const Step& step) const;
  std::string submit(const Step& step, const std::vector<size_t>& rows,
                     const SamplingOf& sampling_of);
  std::string submit_rest(const Step& step, const std::vector<size_t>& rest,
                          const SamplingOf& sampling_of, std::vector<std::vector<Match>>& parts);
  std::optional<std::vector<Guess>> begin_next(const Step& step, const std::vector<Match>& rows);
  std::optional<std::vector<Guess>> begin_after(const Step& step, const std::vector<Match>& rows,
                                                const Outcome& out,
                                                const SamplingOf& sampling_of);
  static bool only_prompts(const Step& step, const std::vector<Match>& rows);
  void collect(const std::vector<Match>& rows, Outcome& out);

  engine::Engine& engine_;
  bool split_;
  std::optional<std::vector<Guess>> ahead_;
  int64_t ahead_steps_ = 0, wasted_rows_ = 0, split_steps_ = 0, after_steps_ = 0;
};

}  // namespace limpet::worker
