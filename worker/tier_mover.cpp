#include "worker/tier_mover.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace limpet::worker {
namespace {

constexpr int64_t kStagingPages = 32;
constexpr int kAsked = 16;                        // pages of a move that the disk has to do
constexpr int64_t kMostCopying = int64_t{512} << 20;  // bytes: a step's time on the link and more
constexpr size_t kParts = 4;                      // of that, told one by one
constexpr int64_t kMostPages = 256;               // of small pages: each costs the host a call

bool restores(MoveKind kind) {
  return kind == MoveKind::restore_host || kind == MoveKind::restore_disk;
}

}  // namespace

TierMover::TierMover(engine::Engine& engine, const TierSizes& sizes) : engine_(engine) {
  const int64_t page = engine.info().page_bytes;
  if (sizes.disk_bytes > 0 && sizes.host_bytes <= 0) {
    throw std::runtime_error("KV goes to disk through host memory: --kv-disk-bytes needs"
                             " --kv-host-bytes");
  }
  options_ = {sizes.host_bytes / page, sizes.disk_bytes / page, sizes.least_tokens};
  if (sizes.host_bytes > 0 && options_.host_pages == 0) {
    throw std::runtime_error("--kv-host-bytes holds no page of KV; one takes " +
                             std::to_string(page) + " bytes");
  }
  most_copying_ = static_cast<size_t>(std::clamp<int64_t>(kMostCopying / page, 1, kMostPages));
  if (options_.host_pages == 0) return;
  const int64_t staging = options_.disk_pages > 0 ? kStagingPages : 0;
  engine.make_host_pages(options_.host_pages + staging);
  for (int64_t i = 0; i < staging; ++i) {
    staging_.push_back(static_cast<int32_t>(options_.host_pages + i));
  }
  if (options_.disk_pages > 0) {
    disk_ = std::make_unique<TierDisk>(sizes.disk_folder, page, options_.disk_pages);
  }
}

TierMover::~TierMover() = default;

TierMover::Move* TierMover::find(uint64_t id) {
  const auto it = std::ranges::find(moves_, id, [](const Move& m) { return m.command.id; });
  return it == moves_.end() ? nullptr : &*it;
}

bool TierMover::copying() const {
  return std::ranges::any_of(
      moves_, [](const Move& m) { return m.command.kind != MoveKind::demote && m.asked == 0; });
}

void TierMover::begin(const MovePages& move) {
  const auto spill = std::ranges::find_if(
      moves_, [](const Move& m) { return !restores(m.command.kind); });
  const auto at = restores(move.kind) ? spill : moves_.end();
  Move& begun = *moves_.insert(at, Move{move, 0, 0, 0, 0, {}, {}});
  go_on(begun);
}

std::vector<PagesMoved> TierMover::poll() {
  hear_device();
  hear_disk();
  for (Move& move : moves_) go_on(move);
  hear_device();  // where copies are done at once
  std::vector<PagesMoved> ended;
  std::erase_if(moves_, [&](const Move& m) {
    const bool all = m.copied == m.command.pages.size();
    const bool failed = !m.error.empty() && m.asked == 0 && m.begun == m.copied;
    if (!all && !failed) return false;
    ended.push_back({m.command.id, static_cast<int64_t>(m.copied), m.error});
    return true;
  });
  return ended;
}

void TierMover::hear_device() {
  std::erase_if(copying_, [&](const Copying& c) {
    if (!engine_.moves_done(c.number)) return false;
    Move& move = *find(c.move);
    move.copied += c.pages;
    count(move, c.pages);
    pages_copying_ -= c.pages;
    staging_.insert(staging_.end(), c.staged.begin(), c.staged.end());
    return true;
  });
}

void TierMover::hear_disk() {
  if (disk_ == nullptr) return;
  for (TierDisk::Done& done : disk_->take()) {
    Move& move = *find(done.move);
    --move.asked;
    const bool failed = !move.error.empty() || !done.error.empty();
    if (move.error.empty()) move.error = std::move(done.error);
    if (move.command.kind == MoveKind::demote) {
      failed ? --move.begun : ++move.copied;
      count(move, failed ? 0 : 1);
    } else if (failed) {  // its place in memory, and that of all after it, is free again
      staging_.push_back(move.staged[move.read]);
      move.staged.erase(move.staged.begin() + static_cast<ptrdiff_t>(move.read));
      --move.begun;
    } else {
      ++move.read;
    }
  }
}

void TierMover::go_on(Move& move) {
  if (move.command.kind == MoveKind::demote) return ask_disk(move);
  if (move.command.kind == MoveKind::restore_disk) {
    copy_staged(move);
    return ask_disk(move);
  }
  const size_t room = most_copying_ - std::min(most_copying_, pages_copying_);
  copy(move, std::min(move.command.pages.size(), move.begun + room));
}

void TierMover::copy(Move& move, size_t end) {
  const bool up = move.command.kind == MoveKind::restore_host;
  const size_t part = std::max<size_t>(most_copying_ / kParts, 1);
  while (move.begun < end) {
    std::vector<engine::HostMove> pages;
    for (; move.begun < end && pages.size() < part; ++move.begun) {
      const PageMove& p = move.command.pages[move.begun];
      pages.push_back(up ? engine::HostMove{p.to, p.from} : engine::HostMove{p.from, p.to});
    }
    copying_.push_back({engine_.begin_moves(up, pages), move.command.id, pages.size(), {}});
    pages_copying_ += pages.size();
  }
}

// The next pages, as far as there is memory for what comes and the disk has little to do.
void TierMover::ask_disk(Move& move) {
  const bool read = move.command.kind == MoveKind::restore_disk;
  while (move.error.empty() && move.begun < move.command.pages.size() && move.asked < kAsked) {
    const PageMove& p = move.command.pages[move.begun];
    TierDisk::Task task{move.command.id, read, read ? p.from : p.to, {}};
    if (read) {
      if (staging_.empty()) return;
      move.staged.push_back(staging_.back());
      staging_.pop_back();
    }
    task.memory = engine_.host_page(read ? move.staged.back() : p.from);
    disk_->give(task);
    ++move.begun;
    ++move.asked;
  }
}

// What the disk has brought goes to the device.
void TierMover::copy_staged(Move& move) {
  if (move.read == 0) return;
  std::vector<engine::HostMove> pages;
  std::vector<int32_t> staged;
  const size_t first = move.begun - move.staged.size();
  for (size_t i = 0; i < move.read; ++i) {
    staged.push_back(move.staged.front());
    pages.push_back({move.command.pages[first + i].to, move.staged.front()});
    move.staged.pop_front();
  }
  move.read = 0;
  const size_t n = pages.size();
  copying_.push_back(
      {engine_.begin_moves(true, pages), move.command.id, n, std::move(staged)});
  pages_copying_ += n;
}

void TierMover::count(const Move& move, size_t pages) {
  int64_t* const by_kind[] = {&counters_.spilled, &counters_.restored_host,
                              &counters_.restored_disk, &counters_.demoted};
  *by_kind[static_cast<size_t>(move.command.kind)] +=
      static_cast<int64_t>(pages) * engine_.info().page_bytes;
}

}  // namespace limpet::worker
