#include "tests/sim/tier_memory.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace limpet::sim {

using worker::MoveKind;

TierMemory::TierMemory(World& world, std::string worker, std::vector<KvRow>& pool,
                       int64_t page_tokens)
    : world_(world),
      worker_(std::move(worker)),
      pool_(pool),
      page_tokens_(static_cast<size_t>(page_tokens)),
      options_{world.scene.host_pages, world.scene.disk_pages, world.scene.least_tokens},
      host_(static_cast<size_t>(options_.host_pages) * page_tokens_, KvRow{-2}),
      disk_(static_cast<size_t>(options_.disk_pages) * page_tokens_, KvRow{-3}) {}

TierMemory::Place TierMemory::from(MoveKind kind) {
  return kind == MoveKind::spill          ? Place::pool
         : kind == MoveKind::restore_disk ? Place::disk
                                          : Place::host;
}

TierMemory::Place TierMemory::to(MoveKind kind) {
  return kind == MoveKind::spill    ? Place::host
         : kind == MoveKind::demote ? Place::disk
                                    : Place::pool;
}

std::vector<KvRow>& TierMemory::memory(Place place) {
  return place == Place::pool ? pool_ : place == Place::host ? host_ : disk_;
}

// A page is read by any number of moves, or written by one.
void TierMemory::use(Place place, int32_t page, int readers) {
  if (page < 0 || (static_cast<size_t>(page) + 1) * page_tokens_ > memory(place).size()) {
    throw Contradiction(worker_ + " moves a page beyond its tier's size");
  }
  int& users = used_[{place, page}];
  if (users < 0 || (readers < 0 && users > 0)) {
    throw Contradiction(worker_ + " moves a page that another move writes or reads");
  }
  users += readers;
}

void TierMemory::judge_write(int32_t pool_page) const {
  const auto it = used_.find({Place::pool, pool_page});
  if (it != used_.end() && it->second != 0) {
    throw Contradiction(worker_ + " writes a page of KV that is being moved");
  }
}

int64_t TierMemory::copy(const worker::MovePages& move) {
  auto good = std::ssize(move.pages);
  const bool disk = move.kind == MoveKind::restore_disk || move.kind == MoveKind::demote;
  if (disk && world_.faulty() && world_.rng.chance(world_.scene.damaged_pages)) {
    good = world_.rng.below(good + 1);
  }
  const auto& source = memory(from(move.kind));
  auto& target = memory(to(move.kind));
  for (int64_t i = 0; i < std::ssize(move.pages); ++i) {
    const auto& p = move.pages[static_cast<size_t>(i)];
    const auto at = target.begin() + static_cast<ptrdiff_t>(page_tokens_) * p.to;
    if (i < good) {
      std::copy_n(source.begin() + static_cast<ptrdiff_t>(page_tokens_) * p.from, page_tokens_, at);
    } else {
      std::fill_n(at, page_tokens_, KvRow{-4});
    }
  }
  const bool altered = world_.plant == Plant::tier_page_altered && move.kind != MoveKind::spill;
  if (altered && !move.pages.empty()) {
    target[page_tokens_ * static_cast<size_t>(move.pages.front().to)].token ^= 1;
  }
  return good;
}

void TierMemory::begin(const worker::MovePages& move, std::function<bool()> lives,
                       std::function<void(worker::PagesMoved)> over) {
  ++world_.verdict.tier_moves;
  const auto both = [this, move](int sign) {
    for (const auto& p : move.pages) {
      if (sign > 0) {
        use(from(move.kind), p.from, 1);
        use(to(move.kind), p.to, -1);
      } else {
        --used_[{from(move.kind), p.from}];
        ++used_[{to(move.kind), p.to}];
      }
    }
  };
  // Told before it is so: whoever relies on it builds on bytes that are not there, or no longer.
  const bool early = world_.plant == Plant::tier_told_early;
  if (!early) both(1);
  const int64_t at = world_.rng.below(4), end = at + world_.rng.below(4);
  const auto good = std::make_shared<int64_t>(std::ssize(move.pages));
  world_.in(early ? end + 2 : at, [this, move, lives, good] {
    if (lives()) *good = copy(move);
  });
  world_.in(early ? 0 : end, [move, lives, good, both, early, over = std::move(over)] {
    if (!lives()) return;
    if (!early) both(-1);
    over({move.id, *good, *good < std::ssize(move.pages) ? "damaged" : ""});
  });
}

}  // namespace limpet::sim
