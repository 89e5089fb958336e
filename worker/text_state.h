// What stands between a job's tokens and its text: input to ids, ids to text, logits to ids.
#pragma once
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/chat_template.h"
#include "engine/engine.h"
#include "engine/sampling.h"
#include "engine/text_stream.h"
#include "worker/event.h"

namespace limpet::worker {

// A model's folder, as far as text goes. Immutable.
struct TextModel {
  engine::Tokenizer tokenizer;
  engine::ChatTemplate chat_template;
  std::vector<Token> end_tokens;
};

// The tokens of a job's own input. `now`: seconds since 1970, for templates that ask.
Tokenized tokenize(const TextModel& model, const Tokenize& command, int64_t now);

// The text states of the jobs at work. The model must outlive it.
class TextStates {
 public:
  explicit TextStates(const TextModel& model) : model_(model) {}

  // Says so when the output has its end already.
  std::optional<AlreadyEnded> open(const OpenText& command);
  void close(const CloseText& command) { states_.erase({command.job, command.attempt}); }
  int64_t size() const { return std::ssize(states_); }

  // How a token is to be drawn after the row.
  engine::SamplingOptions sampling(const StepRow& row) const { return at(row).sampling; }
  // Samples after the row; `context`: the session's tokens up to here.
  RowResult sample(const StepRow& row, std::span<const float> logits,
                   std::span<const Token> context);
  // What a token that was drawn after the row means.
  RowResult accept(const StepRow& row, const engine::Sampled& drawn);

 private:
  struct State {
    engine::TextStream stream;
    engine::SamplingOptions sampling;
    std::vector<Token> end_tokens;  // the model's, unless they are to be ignored, and the job's
  };
  const State& at(const StepRow& row) const;

  std::map<std::pair<JobNumber, Attempt>, State> states_;
  const TextModel& model_;
};

}  // namespace limpet::worker
