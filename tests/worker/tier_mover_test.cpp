// KV that has been below the device gives the bits of KV that has not: through the host's memory
// and through a file, on the real engine. And a file that lies is found out.
#include "worker/tier_mover.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

namespace limpet::worker {
namespace {

using engine::Engine;
using engine::Precision;
using engine::SequenceId;

std::unique_ptr<Engine> open(const char* model, Precision precision) {
  engine::EngineOptions o;
  o.model_dir = model;
  o.precision = precision;
  o.kv_pages = 64;
  o.threads = 1;
  return Engine::open(o);
}

std::vector<Token> text(int64_t n) {
  std::vector<Token> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>((i * 37 + 11) % 380));
  return tokens;
}

std::vector<float> append(Engine& e, SequenceId s, std::span<const Token> tokens) {
  EXPECT_TRUE(e.kv().reserve(s, std::ssize(tokens)));
  const engine::StepResult r = e.step({{s, tokens, engine::Want::all}});
  EXPECT_TRUE(r.ok()) << r.error;
  return {r.values.begin(), r.values.end()};
}

PagesMoved finish(TierMover& mover) {
  for (int i = 0; i < 10000; ++i) {
    const auto ended = mover.poll();
    if (!ended.empty()) return ended.front();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ADD_FAILURE() << "a move does not end";
  return {};
}

// Pages `from` … of the sequence to pages `to` …; the other way when it comes back.
MovePages move_of(Engine& e, SequenceId s, MoveKind kind, int32_t below) {
  MovePages m{1, kind, {}};
  for (const int32_t page : e.kv().page_table(s)) {
    const bool up = kind == MoveKind::restore_host || kind == MoveKind::restore_disk;
    m.pages.push_back(up ? PageMove{below, page} : PageMove{page, below});
    ++below;
  }
  return m;
}

MovePages demotion(int64_t pages, int32_t host, int32_t disk) {
  MovePages m{1, MoveKind::demote, {}};
  for (int32_t i = 0; i < pages; ++i) m.pages.push_back({host + i, disk + i});
  return m;
}

void scribble(Engine& e, SequenceId s) {
  const std::vector<std::byte> bytes(static_cast<size_t>(e.info().page_bytes), std::byte{0x3f});
  for (const int32_t page : e.kv().page_table(s)) e.write_page(page, bytes);
}

std::string folder() { return testing::TempDir() + "limpet-tiers-" + std::to_string(getpid()); }

TierSizes sizes_for(const Engine& e) {
  return {.host_bytes = 40 * e.info().page_bytes,
          .disk_bytes = 60 * e.info().page_bytes,
          .disk_folder = folder(),
          .least_tokens = 1};
}

class TierMoves : public testing::TestWithParam<Precision> {};

TEST_P(TierMoves, SpilledIsNeverSpilledBitForBit) {
  for (const char* model : {"models/limpet-tiny", "tests/golden/mistral-swa"}) {
    const auto e = open(model, GetParam()), undisturbed = open(model, GetParam());
    TierMover mover(*e, sizes_for(*e));
    const std::vector<Token> all = text(500);  // 32 pages: twice as many as are staged
    const std::span<const Token> before(all.data(), 475), after(all.data() + 475, 25);
    const SequenceId s = e->kv().create(0), stayed = undisturbed->kv().create(0);
    append(*e, s, before);
    append(*undisturbed, stayed, before);
    const auto expected = append(*undisturbed, stayed, after);
    const int64_t pages = std::ssize(e->kv().page_table(s));

    const auto counted = e->counters();
    mover.begin(move_of(*e, s, MoveKind::spill, 3));
    EXPECT_EQ(finish(mover).good, pages);
    EXPECT_EQ(e->counters().kv_bytes_down - counted.kv_bytes_down, pages * e->info().page_bytes);
    mover.begin(demotion(pages, 3, 5));
    EXPECT_EQ(finish(mover).good, pages);

    for (const auto& [kind, below] : {std::pair(MoveKind::restore_host, 3),
                                     std::pair(MoveKind::restore_disk, 5)}) {
      scribble(*e, s);
      mover.begin(move_of(*e, s, kind, below));
      EXPECT_EQ(finish(mover).good, pages);
      const SequenceId again = e->kv().fork(s, 475);
      EXPECT_EQ(append(*e, again, after), expected) << model;
      e->kv().destroy(again);
    }
    EXPECT_EQ(e->counters().weight_bytes_up, counted.weight_bytes_up);
    const auto moved = mover.counters();
    for (const int64_t bytes :
         {moved.spilled, moved.demoted, moved.restored_host, moved.restored_disk}) {
      EXPECT_EQ(bytes, pages * e->info().page_bytes);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, TierMoves, testing::Values(Precision::f32, Precision::bf16));

TEST(TierMoves, AFlippedBitOnDiskIsFoundAndWhatCameBeforeIsOfUse) {
  const auto e = open("models/limpet-tiny", Precision::bf16);
  TierMover mover(*e, sizes_for(*e));
  const SequenceId s = e->kv().create(0);
  append(*e, s, text(480));
  mover.begin(move_of(*e, s, MoveKind::spill, 0));
  finish(mover);
  mover.begin(demotion(30, 0, 0));
  finish(mover);
  const int file = mover.disk()->file().descriptor();
  const off_t at = 21 * e->info().page_bytes + 77;
  char byte = 0;
  ASSERT_EQ(pread(file, &byte, 1, at), 1);
  byte ^= 4;
  ASSERT_EQ(pwrite(file, &byte, 1, at), 1);

  mover.begin(move_of(*e, s, MoveKind::restore_disk, 0));
  const PagesMoved moved = finish(mover);
  EXPECT_EQ(moved.good, 21);
  EXPECT_NE(moved.error.find("checksum"), std::string::npos) << moved.error;
  // Nothing is held up by it: the same pages come from memory, and the disk serves the rest.
  mover.begin(move_of(*e, s, MoveKind::restore_host, 0));
  EXPECT_EQ(finish(mover).good, 30);
}

TEST(TierMoves, AFileThatIsCutOffIsFoundOut) {
  const auto e = open("models/limpet-tiny", Precision::bf16);
  TierMover mover(*e, sizes_for(*e));
  const SequenceId s = e->kv().create(0);
  append(*e, s, text(64));
  mover.begin(move_of(*e, s, MoveKind::spill, 0));
  finish(mover);
  mover.begin(demotion(4, 0, 0));
  finish(mover);
  ASSERT_EQ(ftruncate(mover.disk()->file().descriptor(), 2 * e->info().page_bytes + 5), 0);
  mover.begin(move_of(*e, s, MoveKind::restore_disk, 0));
  EXPECT_EQ(finish(mover).good, 2);
}

TEST(TierMoves, ADiskThatRefusesEndsTheMoveWithItsReason) {
  const auto e = open("models/limpet-tiny", Precision::bf16);
  TierMover mover(*e, sizes_for(*e));
  const int null = ::open("/dev/full", O_RDWR);  // no space left on it
  ASSERT_GE(null, 0);
  ASSERT_GE(dup2(null, mover.disk()->file().descriptor()), 0);
  close(null);
  mover.begin(demotion(30, 0, 0));
  const PagesMoved moved = finish(mover);
  EXPECT_EQ(moved.good, 0);
  EXPECT_NE(moved.error.find("No space"), std::string::npos) << moved.error;
  EXPECT_TRUE(mover.idle());
}

TEST(TierMoves, TheFileHasNoNameAndIsGoneWithTheProcess) {
  const auto e = open("models/limpet-tiny", Precision::bf16);
  const TierMover mover(*e, sizes_for(*e));
  EXPECT_TRUE(std::filesystem::is_empty(folder()));
}

TEST(TierMoves, SizesThatCannotBeAreRefused) {
  const auto e = open("models/limpet-tiny", Precision::bf16);
  TierSizes sizes = sizes_for(*e);
  sizes.host_bytes = 0;
  EXPECT_THROW(TierMover(*e, sizes), std::runtime_error);
  sizes.host_bytes = 10;
  EXPECT_THROW(TierMover(*e, sizes), std::runtime_error);
  sizes = sizes_for(*e);
  sizes.disk_folder = "/dev/null/x";
  EXPECT_THROW(TierMover(*e, sizes), std::runtime_error);
}

}  // namespace
}  // namespace limpet::worker
