// What is said when a session's KV goes from one worker to another, as plain data.
//
// The broker chooses who receives which session. The giver (its home) brings the KV to the
// receiver page by page while the session's job goes on; at the last page the job pauses. Once the
// receiver has all of it the broker makes it the home, under a new epoch, and only then may it
// decode. What fails in between leaves the session where it was.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "schema/types.h"

namespace limpet {

// ---- Worker → broker -----------------------------------------------------------------------

struct SessionReceived {  // all of it is here; again with each heartbeat until it is answered
  SessionNumber session{};
  Epoch epoch{};       // of the giver's lease
  int64_t tokens = 0;  // that have KV
};
struct HandOverFailed {  // of giver or receiver; the giver's job, if there is one, goes on there
  SessionNumber session{};
  Epoch epoch{};
  std::string why;
};

// ---- Broker → worker -----------------------------------------------------------------------

struct Leave {  // do what SIGTERM does; answered by Leaving
  uint64_t incarnation = 0;
};
struct MayLeave {  // nothing is here any more that could go elsewhere
  uint64_t incarnation = 0;
};
struct HandOver {  // bring this session's KV there; again with each heartbeat until it is over
  SessionNumber session{};
  Epoch epoch{};
  std::string endpoint;
  uint64_t receiver = 0;  // its incarnation
  std::string receiver_key{};  // its public key; empty: without keys
};
struct StopHandOver {  // nothing came of it: a paused job goes on
  SessionNumber session{};
  Epoch epoch{};
};
struct ExpectSession {  // a giver will bring it; again with each heartbeat until it is over
  SessionNumber session{};
  Epoch epoch{};
  uint64_t giver = 0;    // its incarnation, by which the giver is known
  std::string tenant{};  // whose it is
  std::string giver_key{};  // its public key, let in for this alone; empty: without keys
  int64_t tokens = 0;       // about so many have KV, for which room is to be made
  bool has_job = false;     // a job goes on with it: others' idle KV may be lost for that room
};
struct KeepSession {  // what was received is yours, under this lease
  SessionNumber session{};
  Epoch epoch{};
};

// ---- Giver → receiver ----------------------------------------------------------------------
// Pages are numbered from 0 along the session. Of what is lost or damaged the receiver says where
// to go on; what comes twice it ignores.

struct TransferOpen {  // answered by TransferCredit
  SessionNumber session{};
  Epoch epoch{};
  uint64_t giver = 0, receiver = 0;  // incarnations
  uint64_t layout = 0;               // the giver's kv_layout
};
struct TransferPage {
  SessionNumber session{};
  Epoch epoch{};
  uint64_t giver = 0;
  int64_t index = 0;
  std::vector<Token> tokens;  // whose KV the page holds: all its rows, but for the last page
  std::shared_ptr<const std::vector<std::byte>> bytes;  // one page of the pool
  bool damaged = false;  // its checksum says so; not on the wire
};
struct TransferEnd {  // so many tokens have KV; there are no more pages
  SessionNumber session{};
  Epoch epoch{};
  uint64_t giver = 0;
  int64_t tokens = 0;
};
using GiverMessage = std::variant<TransferOpen, TransferPage, TransferEnd>;

// ---- Receiver → giver ----------------------------------------------------------------------

struct TransferCredit {
  SessionNumber session{};
  Epoch epoch{};
  int64_t next_page = 0;  // all before it are here
  int64_t credit = 0;     // pages below this number may be sent
  bool again = false;     // send again from next_page on
};
struct TransferDone {
  SessionNumber session{};
  Epoch epoch{};
  int64_t tokens = 0;
};
struct TransferRefused {
  SessionNumber session{};
  Epoch epoch{};
  std::string why;
};
using ReceiverMessage = std::variant<TransferCredit, TransferDone, TransferRefused>;

}  // namespace limpet
