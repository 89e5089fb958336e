#include "worker/tiers.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace limpet::worker {
namespace {

constexpr int64_t kMostDemotions = 2;  // at a time
constexpr int64_t kFewFree = 8;        // one in so many of the host's pages

void check(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("tiers: ") + what);
}

}  // namespace

Tiers::Tiers(const TierOptions& options, int64_t page_tokens)
    : options_(options), page_tokens_(page_tokens) {
  check(options.host_pages >= 0 && options.disk_pages >= 0 && page_tokens > 0, "negative sizes");
  check(options.host_pages > 0 || options.disk_pages == 0, "a disk tier stands below a host tier");
  for (int64_t s = 0; s < options.host_pages; ++s) free_[0].insert(static_cast<int32_t>(s));
  for (int64_t s = 0; s < options.disk_pages; ++s) free_[1].insert(static_cast<int32_t>(s));
}

Tiers::Copy* Tiers::find(SessionNumber session) {
  const auto it = copies_.find(session);
  return it == copies_.end() ? nullptr : &it->second;
}

const Tiers::Copy* Tiers::find(SessionNumber session) const {
  const auto it = copies_.find(session);
  return it == copies_.end() ? nullptr : &it->second;
}

bool Tiers::takes(int64_t tokens) const {
  const int64_t pages = (tokens + page_tokens_ - 1) / page_tokens_;
  return tokens > 0 && tokens >= options_.least_tokens && pages <= options_.host_pages;
}

int64_t Tiers::covered(SessionNumber session, std::span<const Token> tokens) const {
  const Copy* copy = find(session);
  if (copy == nullptr) return 0;
  return std::ranges::mismatch(copy->tokens, tokens).in1 - copy->tokens.begin();
}

int64_t Tiers::tokens_of(SessionNumber session) const {
  const Copy* copy = find(session);
  return copy == nullptr ? 0 : std::ssize(copy->tokens);
}

std::optional<Tier> Tiers::tier_of(SessionNumber session) const {
  const Copy* copy = find(session);
  return copy == nullptr || copy->tokens.empty() ? std::nullopt : std::optional(copy->tier);
}

bool Tiers::moving(SessionNumber session) const {
  const Copy* copy = find(session);
  return copy != nullptr && copy->move != 0;
}

std::optional<std::vector<int32_t>> Tiers::take(Tier tier, int64_t n) {
  auto& free = free_[at(tier)];
  if (std::ssize(free) < n) return std::nullopt;
  std::vector<int32_t> slots;
  for (; n > 0; --n) slots.push_back(free.extract(free.begin()).value());
  gauges_.pages_used[at(tier)] += std::ssize(slots);
  return slots;
}

void Tiers::give_back(Tier tier, std::span<const int32_t> slots) {
  for (const int32_t slot : slots) {
    check(free_[at(tier)].insert(slot).second, "a page given back twice");
  }
  gauges_.pages_used[at(tier)] -= std::ssize(slots);
}

void Tiers::count(const Copy& copy, int64_t sign) {
  if (copy.spare) {
    if (copy.tier == Tier::host) gauges_.spare_pages += sign * std::ssize(copy.slots);
    return;
  }
  gauges_.sessions[at(copy.tier)] += sign;
  gauges_.tokens[at(copy.tier)] += sign * std::ssize(copy.tokens);
}

// Copies that nothing moves stand in the order in which they give way.
void Tiers::enlist(SessionNumber session, Copy& copy) {
  count(copy, 1);
  order_[at(copy.tier)][copy.spare].emplace(copy.age, session);
}

void Tiers::delist(const Copy& copy) {
  count(copy, -1);
  order_[at(copy.tier)][copy.spare].erase(copy.age);
}

std::optional<MovePages> Tiers::spill(SessionNumber session, std::span<const Token> tokens,
                                      std::span<const int32_t> pages) {
  Copy* copy = find(session);
  if (copy != nullptr && copy->move != 0) return std::nullopt;
  const int64_t n = (std::ssize(tokens) + page_tokens_ - 1) / page_tokens_;
  check(n > 0 && std::ssize(pages) >= n, "a spill of pages that are not there");
  const bool grows = copy != nullptr && copy->tier == Tier::host;
  const int64_t kept = grows ? covered(session, tokens) / page_tokens_ : 0;
  auto slots = take(Tier::host, n - kept);
  if (!slots) return std::nullopt;
  if (copy == nullptr) {
    copy = &copies_[session];
    copy->spare = true;
    copy->age = next_age_++;
  } else {
    delist(*copy);
  }
  const uint64_t id = copy->move = next_move_++;
  MovePages command{id, MoveKind::spill, {}};
  for (int64_t i = kept; i < n; ++i) {
    command.pages.push_back(
        {pages[static_cast<size_t>(i)], (*slots)[static_cast<size_t>(i - kept)]});
  }
  Move& move = moves_[id];
  move.kind = MoveKind::spill;
  move.session = session;
  move.tokens.assign(tokens.begin(), tokens.end());
  move.kept = kept;
  move.slots = std::move(*slots);
  move.pages = std::ssize(command.pages);
  return command;
}

MovePages Tiers::restore(SessionNumber session, int64_t first, std::span<const int32_t> to) {
  Copy* copy = find(session);
  check(copy != nullptr && copy->move == 0, "a restore of what is not at rest");
  check(first >= 0 && first + std::ssize(to) <= std::ssize(copy->slots), "pages beyond the copy");
  delist(*copy);
  const uint64_t id = copy->move = next_move_++;
  MovePages command{
      id, copy->tier == Tier::host ? MoveKind::restore_host : MoveKind::restore_disk, {}};
  for (size_t i = 0; i < to.size(); ++i) {
    command.pages.push_back({copy->slots[static_cast<size_t>(first) + i], to[i]});
  }
  Move& move = moves_[id];
  move.kind = command.kind;
  move.session = session;
  move.pages = std::ssize(to);
  return command;
}

// A copy that goes for want of room.
void Tiers::lose_oldest(Tier tier, bool spare) {
  const auto session = order_[at(tier)][spare].begin()->second;
  gauges_.gone += !spare;
  drop(session);
  gone_.push_back(session);
}

bool Tiers::oldest_gone(Tier tier) {
  for (const bool spare : {true, false}) {
    if (order_[at(tier)][spare].empty()) continue;
    lose_oldest(tier, spare);
    return true;
  }
  return false;
}

std::optional<MovePages> Tiers::demote_oldest() {
  auto& oldest = order_[at(Tier::host)][false];
  if (oldest.empty() || demotions_ >= kMostDemotions) return std::nullopt;
  const SessionNumber session = oldest.begin()->second;
  Copy& copy = copies_.at(session);
  const int64_t n = std::ssize(copy.slots);
  if (n > options_.disk_pages) return std::nullopt;
  while (std::ssize(free_[1]) < n && oldest_gone(Tier::disk)) {}
  auto slots = take(Tier::disk, n);
  if (!slots) return std::nullopt;  // what is there is on its way
  delist(copy);
  const uint64_t id = copy.move = next_move_++;
  MovePages command{id, MoveKind::demote, {}};
  for (size_t i = 0; i < slots->size(); ++i) command.pages.push_back({copy.slots[i], (*slots)[i]});
  Move& move = moves_[id];
  move.kind = MoveKind::demote;
  move.session = session;
  move.slots = std::move(*slots);
  move.pages = n;
  ++demotions_;
  return command;
}

std::optional<MovePages> Tiers::make_room(int64_t pages) {
  auto& spare = order_[at(Tier::host)][true];
  while (free_host_pages() < pages && !spare.empty()) lose_oldest(Tier::host, true);
  while (free_host_pages() < pages && !order_[at(Tier::host)][false].empty()) {
    const SessionNumber oldest = order_[at(Tier::host)][false].begin()->second;
    if (std::ssize(copies_.at(oldest).slots) <= options_.disk_pages) return demote_oldest();
    lose_oldest(Tier::host, false);  // there is no disk, or not so much
  }
  return std::nullopt;
}

bool Tiers::has_room(int64_t pages) const {
  if (free_host_pages() + gauges_.spare_pages >= pages) return true;
  const auto& oldest = order_[at(Tier::host)][false];
  return !oldest.empty() && pages <= options_.host_pages && fits_on_disk(oldest.begin()->second);
}

bool Tiers::fits_on_disk(SessionNumber session) const {
  const int64_t pages = std::ssize(copies_.at(session).slots);
  return pages <= std::min(options_.disk_pages, std::ssize(free_[at(Tier::disk)]));
}

int64_t Tiers::free_below() const {
  int64_t pages = free_host_pages();
  if (options_.disk_pages > 0) pages += std::ssize(free_[at(Tier::disk)]);
  for (const auto& [id, move] : moves_) {  // what is on its way down has its place there
    if (move.kind == MoveKind::spill && !move.orphan) pages += std::ssize(move.slots);
  }
  return pages;
}

std::optional<MovePages> Tiers::demote_early() {
  const auto& oldest = order_[at(Tier::host)][false];
  if (demotions_ > 0 || free_host_pages() * kFewFree >= options_.host_pages || oldest.empty() ||
      !fits_on_disk(oldest.begin()->second)) {
    return std::nullopt;
  }
  return demote_oldest();
}

Tiers::Ended Tiers::end(const PagesMoved& moved) {
  auto node = moves_.extract(moved.id);
  check(!node.empty(), "the end of a move that is not known");
  Move& move = node.mapped();
  check(moved.good >= 0 && moved.good <= move.pages, "more pages than were moved");
  const Ended ended{move.kind, move.session, moved.good == move.pages, moved.good, move.orphan};
  demotions_ -= move.kind == MoveKind::demote;
  if (move.orphan) {
    give_back(move.doomed_tier, move.doomed);
    give_back(move.kind == MoveKind::demote ? Tier::disk : Tier::host, move.slots);
    return ended;
  }
  Copy& copy = copies_.at(move.session);
  copy.move = 0;
  if (move.kind == MoveKind::spill) {
    end_spill(move, ended.whole);
  } else if (move.kind == MoveKind::demote) {
    end_demote(move, ended.whole);
  } else {
    auto& outcome = ended.whole ? gauges_.restored : gauges_.damaged;
    ++outcome[at(copy.tier)];
    enlist(move.session, copy);
    // What came from disk is on the device now; what came damaged is of no use.
    if (copy.tier == Tier::disk || !ended.whole) drop(move.session);
  }
  return ended;
}

void Tiers::end_spill(Move& move, bool whole) {
  Copy& copy = copies_.at(move.session);
  ++(whole ? gauges_.spilled : gauges_.spill_failed);
  if (!whole) {
    give_back(Tier::host, move.slots);
    enlist(move.session, copy);
    if (copy.slots.empty()) drop(move.session);
    return;
  }
  const auto old = std::span<const int32_t>(copy.slots).subspan(static_cast<size_t>(move.kept));
  give_back(copy.tier, old);
  copy.slots.resize(static_cast<size_t>(move.kept));
  copy.slots.insert(copy.slots.end(), move.slots.begin(), move.slots.end());
  copy.tier = Tier::host;
  copy.tokens = std::move(move.tokens);
  copy.age = next_age_++;
  enlist(move.session, copy);
}

void Tiers::end_demote(Move& move, bool whole) {
  Copy& copy = copies_.at(move.session);
  ++(whole ? gauges_.demoted : gauges_.demote_failed);
  if (whole) {
    give_back(Tier::host, copy.slots);
    copy.slots = std::move(move.slots);
    copy.tier = Tier::disk;
    copy.age = next_age_++;
    enlist(move.session, copy);
    return;
  }
  give_back(Tier::disk, move.slots);
  enlist(move.session, copy);
  options_.disk_pages = 0;  // a disk that fails is not asked again
}

void Tiers::drop(SessionNumber session) {
  const auto it = copies_.find(session);
  if (it == copies_.end()) return;
  Copy& copy = it->second;
  if (copy.move == 0) {
    delist(copy);
    give_back(copy.tier, copy.slots);
  } else {
    Move& move = moves_.at(copy.move);
    move.orphan = true;
    move.doomed = std::move(copy.slots);
    move.doomed_tier = copy.tier;
  }
  copies_.erase(it);
}

void Tiers::set_spare(SessionNumber session, bool spare) {
  Copy* copy = find(session);
  if (copy == nullptr || copy->spare == spare) return;
  if (copy->move == 0) delist(*copy);
  copy->spare = spare;
  copy->age = next_age_++;
  if (copy->move == 0) enlist(session, *copy);
}

void Tiers::touch(SessionNumber session) {
  Copy* copy = find(session);
  if (copy == nullptr) return;
  if (copy->move == 0) delist(*copy);
  copy->age = next_age_++;
  if (copy->move == 0) enlist(session, *copy);
}

std::vector<SessionNumber> Tiers::take_gone() { return std::exchange(gone_, {}); }

}  // namespace limpet::worker
