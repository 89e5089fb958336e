// What a client asks for and what it is told at the end, as plain data.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "schema/types.h"

namespace limpet {

struct ChatMessage {
  std::string role;
  std::string content;
  bool operator==(const ChatMessage&) const = default;
};

// Temperature 0 is greedy. top_k 0, top_p 1, min_p 0, repetition_penalty 1: off.
struct Sampling {
  float temperature = 0.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  std::optional<uint64_t> seed;  // drawn from the job id by the broker when absent
  int32_t logprobs = -1;  // alternatives told for each token; -1: none, 0: only the chosen one
  bool operator==(const Sampling&) const = default;
};

enum class InputKind : uint8_t { messages, text, tokens };

// What a client asks for. Exactly the input field that `kind` names is used.
struct JobSpec {
  std::string job_id;   // chosen by the client; makes the job idempotent
  std::string session;  // empty: a session of its own that ends with it
  InputKind kind = InputKind::messages;
  std::vector<ChatMessage> messages;  // rendered by the model's chat template
  std::string text;                   // tokenized as it is
  std::vector<Token> tokens;          // appended as they are
  Sampling sampling;
  int32_t max_tokens = 256;
  std::vector<std::string> stop;        // strings that end the output; not part of its text
  std::vector<Token> stop_tokens;       // besides the model's own end tokens
  bool ignore_eos = false;
  int64_t deadline_ms = 0;              // from acceptance; 0: none
  int32_t priority = 0;                 // higher goes first among jobs that wait
  bool require_resident = false;
  int64_t rewind_to = -1;               // cut the session to this many tokens as it starts; -1: no
  // What holds for the session from this job's acceptance on.
  int64_t keep_alive_ms = -1;      // its KV is kept so long when idle; -1: as before, 0: not at all
  int64_t session_max_tokens = 0;  // it may never hold more; 0: as before
  bool operator==(const JobSpec&) const = default;
};

struct TokenLogprob {
  Token token = 0;
  float logprob = 0.0f;
  bool operator==(const TokenLogprob&) const = default;
};

struct Usage {
  int64_t prompt_tokens = 0;   // tokens of the session before the output, cached ones included
  int64_t cached_tokens = 0;   // of these, how many had their KV at hand
  int64_t output_tokens = 0;
  bool operator==(const Usage&) const = default;
};

// Seconds, as the broker saw them.
struct Timings {
  double queue = 0;        // accepted → dispatched (last attempt)
  double first_token = 0;  // accepted → first token durable
  double total = 0;        // accepted → end
  bool operator==(const Timings&) const = default;
};

}  // namespace limpet
