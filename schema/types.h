// The words that every process of limpet shares: identifiers, states, reasons, codes.
#pragma once
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

namespace limpet {

using Token = int32_t;

// Strong integers: never mixed up, free to copy. The broker draws numbers from its store, so
// they are unique across its restarts; clients see only the names that they chose themselves.
enum class JobNumber : uint64_t {};
enum class SessionNumber : uint64_t {};
enum class Epoch : uint64_t {};    // of a session's home; grows by one whenever the home changes
enum class Attempt : uint32_t {};  // of a job; grows by one with each dispatch
template <typename E>
constexpr auto raw(E e) {
  return static_cast<std::underlying_type_t<E>>(e);
}

// Wall-clock milliseconds since 1970 for what is stored; monotonic time is the cores' own.
using WallMs = int64_t;

// A protocol version. A peer of a newer minor is understood (unknown fields are skipped); of
// a newer major it is refused.
inline constexpr uint16_t kProtocolMajor = 1;
inline constexpr uint16_t kProtocolMinor = 4;

enum class JobState : uint8_t { queued, dispatched, running, finished, failed, cancelled, expired };
constexpr bool is_terminal(JobState s) { return s >= JobState::finished; }

enum class SessionState : uint8_t { idle, queued, running };

// What a job found when it started.
enum class Residency : uint8_t { resident, restored, migrated, reprefilled };

// Why a job had to prefill more than its own input; none when it did not.
enum class Reason : uint8_t {
  none,
  new_session,
  worker_lost,
  evicted,
  drained,
  start_deadline,
  rewound,
  model_changed
};

enum class FinishReason : uint8_t { stop, length, cancelled, expired };

// Why a request or a job was refused or failed. Names go over the wire and into metrics.
enum class ErrorCode : uint8_t {
  none,
  invalid,             // the request itself is wrong; the message says what
  busy,                // a queue is full; retry after the told time
  conflict,            // the job id exists with another body
  not_found,           // no such job or session
  too_long,            // prompt + session exceed the model's context or the worker's pages
  too_large,           // a frame or field over its limit
  version,             // the peer speaks a newer major version
  not_resident,        // `require: resident` could not be met
  deadline,            // the job's deadline passed
  attempts_exhausted,  // max_attempts attempts failed; the message holds the last reason
  worker_error,        // the worker could not decode this job (its device, its memory)
  no_worker,           // no worker can serve this
  storage,             // the broker could not write its store
  internal,
  forbidden            // the peer's key is of another role, or no longer allowed
};

std::string_view name(JobState);
std::string_view name(SessionState);
std::string_view name(Residency);
std::string_view name(Reason);
std::string_view name(FinishReason);
std::string_view name(ErrorCode);

// Limits on what comes from outside; wire.cpp refuses what is beyond them.
struct Limits {
  static constexpr size_t kClientFrame = 16u << 20;   // bytes
  static constexpr size_t kWorkerFrame = 64u << 20;   // bytes
  static constexpr size_t kName = 256;                // bytes of a job, session, worker name
  static constexpr size_t kMessages = 4096;           // chat messages in a job
  static constexpr size_t kText = 8u << 20;           // bytes of text in a job
  static constexpr size_t kTokens = 1u << 20;         // token ids in a job, or in a transcript
  static constexpr size_t kStops = 16;                // stop strings, stop tokens
  static constexpr size_t kStopBytes = 256;           // bytes of one stop string
  static constexpr size_t kItems = 1u << 16;          // messages in an envelope, rows in a step
  static constexpr size_t kLogprobs = 20;             // alternatives told for each token
  static constexpr size_t kPage = 48u << 20;          // bytes of a page of KV
  static constexpr size_t kPageTokens = 4096;         // token rows of a page of KV
};

}  // namespace limpet
