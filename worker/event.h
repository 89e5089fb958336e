// What the worker's core is told and what it decides. Plain data.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "engine/kv_cache.h"
#include "schema/messages.h"
#include "worker/tier_event.h"

namespace limpet::worker {

using Time = std::chrono::steady_clock::time_point;  // a value; the core never reads a clock

// ---- Events ----------------------------------------------------------------------------------

struct FromBroker {
  BrokerToWorker message;
};
// Answers Tokenize: the tokens of the job's own input, or why it cannot be tokenized.
struct Tokenized {
  JobNumber job{};
  Attempt attempt{};
  std::vector<Token> prompt;
  std::string error;  // empty: fine
};
// Answers an OpenText whose output has its end already (an end token, a stop string; or the limit,
// OpenText::complete): the attempt before was lost between its last token and its end.
struct AlreadyEnded {
  JobNumber job{};
  Attempt attempt{};
  FinishReason reason = FinishReason::stop;
  std::string tail_text;
};
// One sampled (or refused) row of the step that was last run.
struct RowResult {
  JobNumber job{};
  Attempt attempt{};
  bool sampled = false;  // false: a prefill chunk that asked for no token
  Token token = 0;
  std::string text;  // certain with this token; replayed tokens gave theirs already
  std::vector<TokenLogprob> logprobs;
  bool end_token = false;    // the token is an end token or a stop token
  bool stop_string = false;  // the text has reached a stop string
  std::string tail_text;     // held-back text, when the output ends here (end_token, StepRow::last)
  std::string error;         // not empty: this sequence failed alone (e.g. its logits are NaN)
};
struct StepDone {
  std::vector<RowResult> rows;  // as Step::rows, same order
  std::string error;            // not empty: the whole step failed; no row advanced
};
struct Tick {};       // time has passed
struct Connected {};  // the transport has (again) a way to the broker: register
struct Stop {};       // take no more jobs; those that are here go on
struct GoNow {};      // and what is here still is given back: there is no more time
// What other workers say about the KV of a session. `peer` names the connection that it came by,
// for the answer; `endpoint` is where this worker has connected to.
struct FromGiver {
  std::string peer;
  GiverMessage message;
};
struct FromReceiver {
  std::string endpoint;
  ReceiverMessage message;
};
// Between plan() and its StepDone the sequences belong to the engine: every other event is put
// aside and decided right after StepDone.
using Event = std::variant<FromBroker, Tokenized, AlreadyEnded, StepDone, Tick, Connected, Stop,
                           GoNow, FromGiver, FromReceiver, PagesMoved>;

// ---- Commands: for the loop to carry out, in order --------------------------------------------

struct Tokenize {
  JobNumber job{};
  Attempt attempt{};
  std::shared_ptr<const JobSpec> spec;
  std::vector<Token> transcript_tail;  // the tokens before the prompt, the last few; or none
};
// The job's text state: replay these output tokens silently (their text is out), then go on.
struct OpenText {
  JobNumber job{};
  Attempt attempt{};
  std::shared_ptr<const JobSpec> spec;
  uint64_t seed = 0;
  std::vector<Token> output;
  bool complete = false;  // the output is as long as it may be: answer AlreadyEnded{length}
};
struct CloseText {  // nobody wants more of this attempt
  JobNumber job{};
  Attempt attempt{};
};
// Where the next messages to this endpoint go, and whose it must be: the receiver's public key;
// empty: keys are off.
struct CallReceiver {
  std::string endpoint, key;
};
struct ToReceiver {
  std::string endpoint;
  GiverMessage message;
};
struct SendPage {  // with the bytes of this page of the pool
  std::string endpoint;
  TransferPage page;
  int32_t pool_page = 0;
};
struct ToGiver {
  std::string peer;
  ReceiverMessage message;
};
struct StorePage {
  int32_t pool_page = 0;
  std::shared_ptr<const std::vector<std::byte>> bytes;
};
struct HangUp {  // nothing more is to go there
  std::string endpoint;
};
using Command = std::variant<Tokenize, OpenText, CloseText, CallReceiver, ToReceiver, SendPage,
                             ToGiver, StorePage, HangUp, MovePages>;

// One row group of a step: `tokens` are appended to the sequence; a token is sampled after the
// last of them when `sample` is set. Pages are reserved already.
struct StepRow {
  JobNumber job{};
  Attempt attempt{};
  engine::SequenceId sequence{};
  std::vector<Token> tokens;
  bool sample = false;
  int64_t position = 0;  // of the token that would be sampled: its index in the session
  bool last = false;     // the token that would be sampled is the last one allowed
};
struct Step {
  std::vector<StepRow> rows;
  bool empty() const { return rows.empty(); }
};

struct Output {
  std::vector<Command> commands;
  std::vector<WorkerMessage> send;
};

}  // namespace limpet::worker
