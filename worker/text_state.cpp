#include "worker/text_state.h"

#include <algorithm>
#include <stdexcept>

namespace limpet::worker {
namespace {

engine::SamplingOptions options_of(const Sampling& s, uint64_t seed) {
  return {.temperature = s.temperature,
          .top_p = s.top_p,
          .top_k = s.top_k,
          .min_p = s.min_p,
          .repetition_penalty = s.repetition_penalty,
          .seed = seed,
          .logprobs = s.logprobs};
}

engine::TokenIds ids_of(const TextModel& model, const Tokenize& command, int64_t now) {
  const JobSpec& spec = *command.spec;
  switch (spec.kind) {
    case InputKind::tokens:
      return {spec.tokens, {}};
    case InputKind::text:
      // What the post-processor puts around a text belongs at a session's beginning.
      return model.tokenizer.encode(spec.text, command.transcript_tail.empty());
    case InputKind::messages:
      break;
  }
  std::vector<engine::TemplateMessage> messages;
  for (const ChatMessage& m : spec.messages) messages.push_back({m.role, m.content});
  return engine::prompt_tokens(model.tokenizer, model.chat_template, command.transcript_tail,
                               messages,
                               {.add_generation_prompt = true, .now = now, .extra_json = {}});
}

}  // namespace

Tokenized tokenize(const TextModel& model, const Tokenize& command, int64_t now) {
  engine::TokenIds ids = ids_of(model, command, now);
  return {command.job, command.attempt, std::move(ids.ids), std::move(ids.error)};
}

std::optional<AlreadyEnded> TextStates::open(const OpenText& command) {
  const JobSpec& spec = *command.spec;
  State state{engine::TextStream(model_.tokenizer, spec.stop),
              options_of(spec.sampling, command.seed), spec.stop_tokens};
  if (!spec.ignore_eos) {
    state.end_tokens.insert(state.end_tokens.end(), model_.end_tokens.begin(),
                            model_.end_tokens.end());
  }
  AlreadyEnded ended{command.job, command.attempt, FinishReason::stop, {}};
  bool over = false;
  for (const Token token : command.output) {
    over = std::ranges::count(state.end_tokens, token) > 0;
    if (!over) state.stream.push(token);
  }
  over = over || state.stream.stopped();
  if (!over && command.complete) ended.reason = FinishReason::length;
  if (over || command.complete) {
    if (!state.stream.stopped()) ended.tail_text = state.stream.finish().text;
  }
  states_.insert_or_assign({command.job, command.attempt}, std::move(state));
  if (!over && !command.complete) return std::nullopt;
  return ended;
}

const TextStates::State& TextStates::at(const StepRow& row) const {
  const auto it = states_.find({row.job, row.attempt});
  if (it == states_.end()) throw std::logic_error("worker: a row without its text state");
  return it->second;
}

RowResult TextStates::sample(const StepRow& row, std::span<const float> logits,
                             std::span<const Token> context) {
  return accept(row, engine::sample(logits, context, at(row).sampling, row.position));
}

RowResult TextStates::accept(const StepRow& row, const engine::Sampled& drawn) {
  RowResult result{.job = row.job,
                   .attempt = row.attempt,
                   .sampled = true,
                   .token = 0,
                   .text = {},
                   .logprobs = {},
                   .tail_text = {},
                   .error = {}};
  State& state = const_cast<State&>(at(row));
  if (!drawn.ok()) {
    result.error = drawn.error;
    return result;
  }
  result.token = drawn.token;
  if (state.sampling.logprobs >= 0) {
    result.logprobs.push_back({drawn.token, drawn.logprob});
    for (const auto& other : drawn.top) result.logprobs.push_back({other.token, other.logprob});
  }
  result.end_token = std::ranges::count(state.end_tokens, drawn.token) > 0;
  if (!result.end_token) {
    engine::TextStream::Piece piece = state.stream.push(drawn.token);
    result.text = std::move(piece.text);
    result.stop_string = piece.stopped;
  }
  if ((result.end_token || row.last) && !result.stop_string) {
    result.tail_text = state.stream.finish().text;
  }
  return result;
}

}  // namespace limpet::worker
