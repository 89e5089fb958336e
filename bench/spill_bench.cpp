// KV of an idle session to the host's memory and back: against the link as it is measured in the
// same run, against computing it again, and what decoding beside it notices.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "bench/decode_loop.h"
#include "bench/worker_bench.h"
#include "worker/tier_mover.h"

namespace limpet::bench {
namespace {

using engine::Engine;
using engine::SequenceId;
using worker::MoveKind;
using worker::MovePages;
using worker::PageMove;
using worker::TierMover;

constexpr int kRounds = 7;

struct SpillOptions : Options {
  int64_t disk_bytes = 0;
  std::string disk_folder = std::filesystem::temp_directory_path().string();
};

class Bench {
 public:
  Bench(Engine& e, const SpillOptions& o, SequenceId session)
      : e_(e),
        session_(session),
        mover_(e, {.host_bytes = pages() * e.info().page_bytes,
                   .disk_bytes = o.disk_bytes > 0 ? pages() * e.info().page_bytes : 0,
                   .disk_folder = o.disk_folder,
                   .least_tokens = 1}) {
    // In no order, as after much use: each page is a copy of its own.
    for (int64_t i = 0; i < pages(); ++i) slots_.push_back(static_cast<int32_t>(i));
    std::shuffle(slots_.begin(), slots_.end(), std::mt19937_64(5));
  }

  int64_t pages() const { return std::ssize(e_.kv().page_table(session_)); }
  int64_t bytes() const { return pages() * e_.info().page_bytes; }
  TierMover& mover() { return mover_; }

  MovePages move(MoveKind kind) {
    MovePages m{++moves_, kind, {}};
    for (int64_t i = 0; i < pages(); ++i) {
      const int32_t page = e_.kv().page_table(session_)[static_cast<size_t>(i)];
      const int32_t slot = slots_[static_cast<size_t>(i)];
      m.pages.push_back(kind == MoveKind::spill    ? PageMove{page, slot}
                        : kind == MoveKind::demote ? PageMove{slot, slot}
                                                   : PageMove{slot, page});
    }
    return m;
  }
  // Seconds of one move, with nothing beside it.
  double timed(MoveKind kind) {
    const auto start = Clock::now();
    mover_.begin(move(kind));
    for (;;) {
      for (const worker::PagesMoved& done : mover_.poll()) {
        expect(done.error);
        return seconds_since(start);
      }
    }
  }
  double timed_median(MoveKind kind) {
    std::vector<double> all;
    for (int i = 0; i < kRounds; ++i) all.push_back(timed(kind));
    return median(all);
  }
  // Bytes a second of the link: few large copies. The best of some, as it is a bound.
  double link(bool to_device) {
    const int64_t n = std::min<int64_t>(pages(), (int64_t{1} << 30) / e_.info().page_bytes);
    std::vector<engine::HostMove> run;
    for (int64_t i = 0; i < n; ++i) {
      run.push_back({static_cast<int32_t>(i), static_cast<int32_t>(i)});
    }
    double best = 0;
    for (int i = 0; i < kRounds; ++i) {
      const auto start = Clock::now();
      const uint64_t number = e_.begin_moves(to_device, run);
      while (!e_.moves_done(number)) {}
      best = std::max(best, static_cast<double>(n * e_.info().page_bytes) / seconds_since(start));
    }
    return best;
  }
  // Mean seconds of decode steps, with moves of one kind going on beside them all the time.
  double decode_beside(DecodeLoop& loop, int64_t steps, std::optional<MoveKind> kind) {
    double sum = 0;
    loop.next();
    for (int64_t s = 0; s < steps; ++s) {
      if (kind && mover_.idle()) mover_.begin(move(*kind));
      sum += loop.next();
      for (const worker::PagesMoved& done : mover_.poll()) expect(done.error);
    }
    while (!mover_.idle()) {
      for (const worker::PagesMoved& done : mover_.poll()) expect(done.error);
    }
    return sum / static_cast<double>(steps);
  }
  std::vector<std::byte> content() {
    std::vector<std::byte> all(static_cast<size_t>(bytes()));
    const auto page = static_cast<size_t>(e_.info().page_bytes);
    for (size_t i = 0; i < static_cast<size_t>(pages()); ++i) {
      e_.read_page(e_.kv().page_table(session_)[i], std::span(all).subspan(i * page, page));
    }
    return all;
  }
  void poison() {
    const std::vector<std::byte> bytes(static_cast<size_t>(e_.info().page_bytes), std::byte{0x7f});
    for (const int32_t page : e_.kv().page_table(session_)) e_.write_page(page, bytes);
  }

 private:
  Engine& e_;
  SequenceId session_;
  TierMover mover_;
  std::vector<int32_t> slots_;
  uint64_t moves_ = 0;
};

// What has been below the device is, bit for bit, what was there before.
void check_bits(Bench& b, bool disk) {
  const auto before = b.content();
  b.timed(MoveKind::spill);
  if (disk) b.timed(MoveKind::demote);
  b.poison();
  b.timed(disk ? MoveKind::restore_disk : MoveKind::restore_host);
  if (b.content() != before) throw std::runtime_error("what came back is not what went");
}

double recompute_seconds(Engine& e, const Options& o) {
  const auto tokens = random_tokens(o.context, e.info().vocab, 9);
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {  // the first compiles
    const SequenceId id = e.kv().create(0);
    const auto start = Clock::now();
    prefill(e, id, tokens, o.chunk);
    seconds = seconds_since(start);
    e.kv().destroy(id);
  }
  return seconds;
}

void tell_beside(nlohmann::json& j, Engine& e, Bench& b, const Options& o) {
  const int64_t context = std::min<int64_t>(o.context, 1024);
  std::vector<SequenceId> ids;
  for (int64_t i = 0; i < o.batch; ++i) {
    ids.push_back(sequence_of(e, o, context, 30 + i));
  }
  DecodeLoop loop(e, ids);
  b.decode_beside(loop, 8, std::nullopt);  // compiles
  // Alone, beside a spill, beside a restore, and again: the clock of the device may drift.
  std::vector<double> alone, spill, restore;
  const auto before = b.mover().counters();
  for (int round = 0; round < 3; ++round) {
    alone.push_back(b.decode_beside(loop, o.steps, std::nullopt));
    spill.push_back(b.decode_beside(loop, o.steps, MoveKind::spill));
    restore.push_back(b.decode_beside(loop, o.steps, MoveKind::restore_host));
  }
  loop.end();
  j["batch"] = o.batch;
  j["decode_seconds_per_step"] = median(alone);
  tell_reading(j, weight_bytes(e, o) + kv_bytes(e, o.batch * context), median(alone),
               measured_read_bandwidth(e));
  j["decode_slowed_by_spill"] = median(spill) / median(alone) - 1;
  j["decode_slowed_by_restore"] = median(restore) / median(alone) - 1;
  j["bytes_spilled_beside_decode"] = b.mover().counters().spilled - before.spilled;
  j["bytes_restored_beside_decode"] = b.mover().counters().restored_host - before.restored_host;
  for (const SequenceId id : ids) e.kv().destroy(id);
}

}  // namespace

int spill_bench(int argc, char** argv) {
  SpillOptions o;
  o.context = 8192;
  o.chunk = 2048;
  o.batch = 8;
  o.steps = 64;
  CLI::App app{"KV of a session of --context tokens to the host's memory and back: against the\n"
               "link, against computing it again, and beside decode steps of --batch sequences"};
  add_options(app, o);
  app.add_option("--disk-bytes", o.disk_bytes, "not 0: to disk and back too");
  app.add_option("--disk-dir", o.disk_folder, "where")->capture_default_str();
  if (const int status = parse(app, argc, argv); status >= 0) return status;
  auto e = open(o, {{o.batch + 2, o.context}});
  const SequenceId session = sequence_of(*e, o, o.context, 1);
  Bench b(*e, o, session);
  check_bits(b, false);
  const auto before = e->counters();
  auto j = describe("spill", *e, o);
  j["context"] = o.context;
  j["pages"] = b.pages();
  j["page_bytes"] = e->info().page_bytes;
  j["kv_bytes"] = b.bytes();
  const double down = b.link(false), up = b.link(true);
  const double spill = b.timed_median(MoveKind::spill);
  const double restore = b.timed_median(MoveKind::restore_host);
  j["link_down_bytes_per_second"] = down;
  j["link_up_bytes_per_second"] = up;
  j["spill_seconds"] = spill;
  j["restore_seconds"] = restore;
  j["spill_fraction_of_link"] = static_cast<double>(b.bytes()) / spill / down;
  j["restore_fraction_of_link"] = static_cast<double>(b.bytes()) / restore / up;
  tell_beside(j, *e, b, o);
  const double recompute = recompute_seconds(*e, o);
  j["recompute_seconds"] = recompute;
  j["recompute_over_restore"] = recompute / restore;
  if (o.disk_bytes > 0) {
    check_bits(b, true);
    j["demote_seconds"] = b.timed_median(MoveKind::demote);
    j["restore_from_disk_seconds"] = b.timed_median(MoveKind::restore_disk);
  }
  j["spilled_bytes"] = b.mover().counters().spilled;
  j["restored_bytes"] = b.mover().counters().restored_host;
  tell_counters(j, before, e->counters());
  std::printf("%s\n", j.dump().c_str());
  return 0;
}

}  // namespace limpet::bench
