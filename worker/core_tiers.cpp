// KV that goes below the device and back. A move owns the sequence whose pages it reads or fills:
// a spill a fork of the session's, so that neither a rewind nor an eviction touches what is being
// copied; a restore the session's own, until what has come is its KV.
#include <algorithm>
#include <utility>

#include "worker/core_state.h"

namespace limpet::worker {
namespace {

constexpr size_t kMostMoves = 4;      // to and from the device, begun before there is need
constexpr int64_t kReadyPages = 4;    // one in so many pages can be had at once, if there is time

}  // namespace

bool Sessions::keeps(const Session& session) const {
  return session.sequence && !session.incoming && tiers_.takes(kv_.length(*session.sequence));
}

// An idle session's place among those that have a copy of all their KV below, or should have.
void Sessions::list(Session& session) {
  if (!keeps(session)) return;
  if (tiers_.covered(session.number, session.tokens) < kv_.length(*session.sequence)) {
    uncopied_.emplace(turn_of(session), session.number);
    uncopied_pages_ += pages_of(session);
    return;
  }
  copied_.emplace(turn_of(session), session.number);
  copied_pages_ += pages_of(session);
}

void Sessions::unlist(Session& session) {
  if (uncopied_.erase(turn_of(session)) > 0) uncopied_pages_ -= pages_of(session);
  if (copied_.erase(turn_of(session)) > 0) copied_pages_ -= pages_of(session);
}

Evict Sessions::evict_idle() {
  if (idle_.empty()) return moves_.empty() ? Evict::nothing : Evict::later;
  return evict(sessions_.at(idle_.begin()->second));
}

Evict Sessions::evict(Session& oldest) {
  if (!keeps(oldest)) {
    give_up(oldest);
    return Evict::done;
  }
  const bool copied = copied_.contains(turn_of(oldest));
  if (!copied && !tiers_.moving(oldest.number)) spill(oldest, copied_.empty());
  if (!copied_.empty()) {
    release(sessions_.at(copied_.begin()->second));
    return Evict::done;
  }
  if (!moves_.empty() || !tiers_.idle()) return Evict::later;
  give_up(oldest);  // below there is no room, and none will come
  return Evict::done;
}

Evict Sessions::give_way(bool lose) {
  if (lose) {
    const auto oldest = std::ranges::find_if(
        idle_, [&](const auto& entry) { return !sessions_.at(entry.second).incoming; });
    if (oldest != idle_.end()) return evict(sessions_.at(oldest->second));
    return moves_.empty() ? Evict::nothing : Evict::later;
  }
  if (!copied_.empty()) {
    release(sessions_.at(copied_.begin()->second));
    return Evict::done;
  }
  const auto oldest = std::ranges::find_if(uncopied_, [&](const auto& entry) {
    return !tiers_.moving(entry.second) && tiers_.has_room(pages_of(sessions_.at(entry.second)));
  });
  if (oldest != uncopied_.end()) spill(sessions_.at(oldest->second), true);
  return moves_.empty() && tiers_.idle() ? Evict::nothing : Evict::later;
}

int64_t Sessions::spill_pages() const {
  return copied_pages_ + std::min(uncopied_pages_, tiers_.free_below());
}

// Its copy is its KV from now on.
void Sessions::release(Session& session) {
  leave_idle(session);
  drop_kv(session);
  tiers_.set_spare(session.number, false);
}

bool Sessions::spill(Session& session, bool make_room) {
  const int64_t length = kv_.length(*session.sequence);
  const auto tokens = std::span<const Token>(session.tokens).first(static_cast<size_t>(length));
  const auto pages = kv_.page_table(*session.sequence);
  auto move = tiers_.spill(session.number, tokens, pages);
  if (!move && make_room) {
    if (auto demote = tiers_.make_room(std::ssize(pages))) begun_.push_back(std::move(*demote));
    move = tiers_.spill(session.number, tokens, pages);
    settle_gone();
  }
  if (!move) return false;
  moves_[move->id] = {session.number, kv_.fork(*session.sequence, length), {}, 0};
  begun_.push_back(std::move(*move));
  return true;
}

Restore Sessions::restore(Session& session) {
  const int64_t have = kv_.length(*session.sequence), rows = kv_.page_tokens();
  const int64_t covered = tiers_.covered(session.number, session.tokens);
  const int64_t upto = std::min(covered, std::ssize(session.tokens) - 1);
  if (upto <= have || have % rows != 0) return Restore::nothing;
  if (tiers_.moving(session.number)) return Restore::later;
  const int64_t first = have / rows, pages = (upto + rows - 1) / rows - first;
  const auto to = kv_.page_table(*session.sequence)
                      .subspan(static_cast<size_t>(first), static_cast<size_t>(pages));
  MovePages move = tiers_.restore(session.number, first, to);
  moves_[move.id] = {session.number, *session.sequence,
                     {session.tokens.begin(), session.tokens.begin() + upto}, first};
  session.sequence.reset();
  session.restore = move.id;
  begun_.push_back(std::move(move));
  return Restore::begun;
}

int64_t Sessions::kv_tokens(const Session& session) const {
  const int64_t device = session.sequence ? kv_.length(*session.sequence) : 0;
  const int64_t below = std::min(tiers_.tokens_of(session.number), std::ssize(session.tokens));
  return std::max(device, below);
}

Restore Sessions::bring_back(Session& session) {
  const SessionNumber number = session.number;
  const int64_t covered = tiers_.covered(number, session.tokens);
  if (session.restore != 0) return Restore::begun;
  if (covered == 0) return Restore::nothing;
  if (tiers_.moving(session.number)) return Restore::later;
  const engine::SequenceId sequence = kv_.create(session.scope);
  kv_.adopt_prefix(sequence, session.tokens);
  while (!kv_.reserve(sequence, std::max<int64_t>(covered - kv_.length(sequence), 0))) {
    const Evict evicted = evict_idle();
    const bool there = find(number) != nullptr;  // not given up for that room
    if (evicted == Evict::done && there) continue;
    kv_.destroy(sequence);
    return evicted == Evict::later ? Restore::later : Restore::nothing;
  }
  session.sequence = sequence;
  if (restore(session) == Restore::begun) return Restore::begun;
  tiers_.set_spare(session.number, true);
  kv_.truncate(sequence, kv_.length(sequence));
  enter_idle(session);
  return Restore::begun;
}

Session* Sessions::moved(const PagesMoved& moved) {
  const Tiers::Ended ended = tiers_.end(moved);
  auto node = moves_.extract(moved.id);
  Session* session = find(ended.session);
  if (node.empty()) return session;  // it was below the device
  const KvMove& move = node.mapped();
  if (ended.kind == MoveKind::spill) {
    kv_.destroy(move.sequence);
    if (session != nullptr && session->idle_since != 0) {
      unlist(*session);
      list(*session);
    }
    return session;
  }
  if (session == nullptr || session->restore != moved.id) {
    kv_.destroy(move.sequence);  // nobody wants it any more
    return session;
  }
  session->restore = 0;
  // The session may have been cut meanwhile.
  int64_t have = std::min(std::ssize(move.tokens), (move.first + ended.pages) * kv_.page_tokens());
  have = std::min(have, std::ranges::mismatch(move.tokens, session->tokens).in1 -
                            move.tokens.begin());
  if (session->job) have = std::min(have, std::max<int64_t>(std::ssize(session->tokens) - 1, 0));
  const int64_t before = kv_.length(move.sequence);
  if (have < before) {
    kv_.truncate(move.sequence, have);
  } else {
    kv_.commit(move.sequence, std::span(move.tokens).subspan(static_cast<size_t>(before),
                                                             static_cast<size_t>(have - before)));
  }
  session->sequence = move.sequence;
  session->restored = ended.whole;
  tiers_.set_spare(session->number, true);
  if (session->job) return session;
  if (have == 0) {
    give_up(*session);
    return nullptr;
  }
  kv_.truncate(move.sequence, have);
  enter_idle(*session);
  return session;
}

void Sessions::settle_gone() {
  for (const SessionNumber number : tiers_.take_gone()) {
    Session* session = find(number);
    if (session == nullptr) continue;
    if (session->idle_since != 0) {  // it has its KV on the device still
      unlist(*session);
      list(*session);
    } else if (!session->job && !session->sequence && session->restore == 0) {
      give_up(*session);
    }
  }
}

void Sessions::tidy_tiers() {
  settle_gone();
  for (auto it = uncopied_.begin(); it != uncopied_.end(); ++it) {
    if (kv_.free_pages() + copied_pages_ >= kv_.total_pages() / kReadyPages) break;
    if (moves_.size() >= kMostMoves) break;
    if (tiers_.moving(it->second)) continue;
    if (!spill(sessions_.at(it->second), false)) break;
  }
  if (auto demote = tiers_.demote_early()) begun_.push_back(std::move(*demote));
  settle_gone();
}

std::vector<MovePages> Sessions::take_moves() { return std::exchange(begun_, {}); }

// ---- The core's part --------------------------------------------------------------------------

void Core::State::on(const Turn& turn, const PagesMoved& event) {
  const Session* session = sessions.moved(event);
  if (session != nullptr && session->job && session->restore == 0) restored(turn, *session);
  receive_waiting(turn);
}

void Core::State::restored(const Turn& turn, const Session& session) {
  Job& job = jobs.at(*session.job);
  if (job.stage != Stage::restoring) return;
  job.stage = Stage::waiting;
  const bool must = job.dispatch.spec->require_resident && job.dispatch.base_tokens > 0;
  const int64_t have = session.sequence ? kv.length(*session.sequence) : 0;
  if (!must || job.started || have >= job.known_tokens - 1) return;
  fail(turn, job, ErrorCode::not_resident, "the session's KV could not be brought back", false);
}

void Core::State::tidy_tiers(const Turn& turn) {
  sessions.tidy_tiers();
  for (MovePages& move : sessions.take_moves()) turn.out.commands.push_back(std::move(move));
}

}  // namespace limpet::worker
