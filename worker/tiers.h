// Where the KV of sessions stands below the device: pages of host memory, and below them pages of
// a file. Which session's copy stands where, which gives way, what is on its way. Pure bookkeeping:
// bytes are moved by whoever carries out MovePages, and told of by PagesMoved.
//
// A copy is the KV of a prefix of its session's transcript, and knows its tokens: what it is good
// for is found by comparing them, so a session that was cut or went on otherwise never gets KV of
// other tokens. It stands in one tier, and at most one move reads or writes it. A copy whose
// session has the same KV on the device is spare: spare copies give way first, oldest first; then
// copies go from host to disk, oldest first; what the disk has no room for is gone.
//
// One owner, one thread. A wrong call is a bug: std::logic_error.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "schema/types.h"
#include "worker/tier_event.h"

namespace limpet::worker {

struct TierOptions {
  int64_t host_pages = 0;      // 0: no tiers at all
  int64_t disk_pages = 0;      // 0: none below the host's
  int64_t least_tokens = 200;  // shorter sessions are computed again instead
};

class Tiers {
 public:
  Tiers(const TierOptions& options, int64_t page_tokens);

  // Whether the KV of so many tokens is to be kept below the device at all.
  bool takes(int64_t tokens) const;
  // Tokens at the beginning of `tokens` whose KV the session's copy holds.
  int64_t covered(SessionNumber session, std::span<const Token> tokens) const;
  int64_t tokens_of(SessionNumber session) const;  // whose KV its copy holds
  std::optional<Tier> tier_of(SessionNumber session) const;  // none: no copy
  bool moving(SessionNumber session) const;

  // Begins to copy the KV of `tokens`, which stands in `pages` of the pool, to the host; what the
  // copy holds already is not moved again. None: its copy is moving, or there is no room now.
  std::optional<MovePages> spill(SessionNumber session, std::span<const Token> tokens,
                                 std::span<const int32_t> pages);
  // Begins to bring pages [first, first + to.size()) of the copy to pages `to` of the pool.
  MovePages restore(SessionNumber session, int64_t first, std::span<const int32_t> to);
  // Makes room in the host's pages, or begins to: spare copies go, then older ones move to disk.
  // At once if anything can go at once.
  std::optional<MovePages> make_room(int64_t pages);
  // The oldest copy goes to disk while there is time, when few of the host's pages are free, and
  // the disk has room that no copy has to leave for it.
  std::optional<MovePages> demote_early();
  int64_t free_host_pages() const { return std::ssize(free_[0]); }
  // Whether make_room(pages) costs nobody KV that is nowhere else.
  bool has_room(int64_t pages) const;
  // Pages of the device that could come to stand below it before any is lost for them.
  int64_t free_below() const;

  struct Ended {
    MoveKind kind{};
    SessionNumber session{};
    bool whole = false;    // all pages have arrived
    int64_t pages = 0;     // that have
    bool orphan = false;   // the copy was dropped meanwhile
  };
  Ended end(const PagesMoved& moved);
  bool idle() const { return moves_.empty(); }

  void drop(SessionNumber session);  // nothing when there is no copy
  void touch(SessionNumber session);  // it is about to be used: the last to give way
  // Its session's KV is on the device too, or no longer.
  void set_spare(SessionNumber session, bool spare);
  // Sessions whose copies went for want of room since the last call.
  std::vector<SessionNumber> take_gone();

  struct Gauges {
    std::array<int64_t, 2> sessions{}, tokens{}, pages_used{};  // by tier; spare copies not counted
    int64_t spare_pages = 0;                                    // of the host's
    std::array<int64_t, 2> restored{}, damaged{};  // restores by the tier that they came from
    int64_t spilled = 0, spill_failed = 0, demoted = 0, demote_failed = 0, gone = 0;
  };
  const Gauges& gauges() const { return gauges_; }

 private:
  struct Copy {
    Tier tier = Tier::host;
    std::vector<Token> tokens;
    std::vector<int32_t> slots;
    bool spare = false;
    uint64_t age = 0;   // of its last change of place; smaller is older
    uint64_t move = 0;  // that works on it; 0: none
  };
  struct Move {
    MoveKind kind{};
    SessionNumber session{};
    bool orphan = false;
    std::vector<Token> tokens;    // of a spill: what the copy will hold
    int64_t kept = 0;             // of a spill: pages of the old copy that go on
    std::vector<int32_t> slots;   // that it writes
    std::vector<int32_t> doomed;  // of a dropped copy, that it may still read
    Tier doomed_tier = Tier::host;
    int64_t pages = 0;
  };

  static size_t at(Tier t) { return static_cast<size_t>(t); }
  Copy* find(SessionNumber session);
  const Copy* find(SessionNumber session) const;
  std::optional<std::vector<int32_t>> take(Tier tier, int64_t n);
  void give_back(Tier tier, std::span<const int32_t> slots);
  void enlist(SessionNumber session, Copy& copy);
  void delist(const Copy& copy);
  void lose_oldest(Tier tier, bool spare);
  bool oldest_gone(Tier tier);
  bool fits_on_disk(SessionNumber session) const;
  std::optional<MovePages> demote_oldest();
  void end_spill(Move& move, bool whole);
  void end_demote(Move& move, bool whole);
  void count(const Copy& copy, int64_t sign);

  TierOptions options_;
  int64_t page_tokens_;
  std::array<std::set<int32_t>, 2> free_;  // by tier; the lowest first, so that runs stay together
  std::map<SessionNumber, Copy> copies_;
  // Copies at rest, by tier and spare, oldest first.
  std::array<std::array<std::map<uint64_t, SessionNumber>, 2>, 2> order_;
  std::map<uint64_t, Move> moves_;
  int64_t demotions_ = 0;  // in flight
  uint64_t next_move_ = 1, next_age_ = 1;
  std::vector<SessionNumber> gone_;
  Gauges gauges_;
};

}  // namespace limpet::worker
