// What the worker knows of a session and of a job. Plain data of its core; nothing else sees it.
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/kv_cache.h"
#include "schema/messages.h"

namespace limpet::worker {

// A session's transcript as far as it is known here, and the sequence that holds the KV of a
// prefix of it. While a job runs, the transcript grows with it.
struct Session {
  SessionNumber number{};
  Epoch epoch{};  // of the lease under which it is held
  uint64_t scope = 0;  // its tenant's, for the KV cache: prefixes are shared within it alone
  std::vector<Token> tokens;
  std::optional<engine::SequenceId> sequence;  // none: no KV
  // Whether `tokens` is what the broker knows. Not when the lease is newer than the copy: another
  // worker may have gone on from there, so the transcript is compared first.
  bool trusted = true;
  bool ephemeral = false;        // ends with its job
  // Its home is another worker still, which brings it here: `epoch` is that one's lease.
  bool incoming = false;
  bool migrated = false;         // it came so, and no job has started on it since
  bool restored = false;         // likewise, from host memory or disk
  uint64_t restore = 0;          // the move that brings its KV back to the device; 0: none
  std::optional<JobNumber> job;  // the one at work; none: idle
  uint64_t idle_since = 0;       // order of becoming idle
  bool kept = false;             // its client has asked for a time: it gives way after the others
};

enum class Stage : uint8_t {
  needs_transcript,
  needs_prompt,  // its input is being tokenized
  waiting,       // for pages, or again for pages after it was preempted
  restoring,     // has pages; its session's KV is on its way to them
  admitted,      // has pages for all its tokens
  ended          // kept until the broker acknowledges the end
};

struct Job {
  uint64_t arrival = 0;  // order; the smallest is the oldest
  Stage stage = Stage::waiting;
  Dispatch dispatch;         // without its transcript, once that is merged into the session
  int64_t known_tokens = 0;  // transcript before this attempt's own work: what KV could be at hand
  bool diverged = false;     // the copy that was here contradicted the transcript
  bool shortened = false;    // the copy that was here went on beyond where the job begins
  int64_t max_tokens = 0;    // the spec's, or less where the context ends first
  std::vector<Token> prompt;
  std::vector<Token> output;                        // from index 0
  std::vector<std::string> text;                    // of output[i]; empty for what came with it
  std::vector<std::vector<TokenLogprob>> logprobs;  // of output[i], when asked for
  std::optional<JobStarted> started;                // as it was sent
  std::optional<JobEnded> end;
  bool paused = false;                              // while the last of its KV leaves
  bool text_open = false;                           // OpenText has been given, CloseText not yet
  bool preempted = false;                           // its KV was dropped since it was last admitted
  std::chrono::steady_clock::time_point said_at{};  // its end, or what it needs

  JobNumber number() const { return dispatch.job; }
  Attempt attempt() const { return dispatch.attempt; }
  bool active() const { return stage != Stage::ended; }
  int64_t prompt_tokens() const { return static_cast<int64_t>(prompt.size()); }
  int64_t output_tokens() const { return static_cast<int64_t>(output.size()); }
};

}  // namespace limpet::worker
