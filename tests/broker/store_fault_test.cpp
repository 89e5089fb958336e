// The store on a disk that fails: killed at any byte of any write, robbed of what was not synced,
// with bits that flip.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "broker/store.h"
#include "tests/broker/fault_disk.h"
#include "tests/broker/journal_reference.h"
#include "tests/broker/scratch_folder.h"

namespace limpet::broker {
namespace {

namespace fs = std::filesystem;

class StoreFaultTest : public testing::Test {
 protected:
  // Small bounds: a short run folds, sweeps, cuts the log and copies it many times.
  Store::Options options(const std::string& name = "data") const {
    return {scratch_.path() + "/" + name, 16, 2000, 12};
  }
  std::string file(const char* suffix) const {
    return scratch_.path() + "/data/limpet.sqlite" + suffix;
  }

  // Commits until the disk dies, or all are made. What is known durable, and what may be.
  struct Run {
    std::string acknowledged, in_flight;
    bool died = false;
  };
  Run run(ReferenceWorld& world, int commits) {
    Run r;
    r.acknowledged = r.in_flight = describe(world);
    try {
      auto store = Store::open(options());
      for (int i = 0; i < commits; ++i) {
        const auto entries = world.make_commit();
        r.in_flight = describe(world);
        store->commit(entries);
        r.acknowledged = r.in_flight;
      }
      disk_.die();  // what closing would tidy up stays as it is
    } catch (const StoreError&) {
      r.died = true;
    }
    return r;
  }

  ScratchFolder scratch_;
  FaultDisk disk_;
  std::mt19937_64 rng_{1};
};

TEST_F(StoreFaultTest, KilledAtAnyByteAllThatWasAcknowledgedIsThere) {
  constexpr int kCommits = 60;
  int died = 0;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    fs::remove_all(options().folder);
    // The first seeds take every byte of the creation's beginning in strides, the others all.
    disk_.die_after(static_cast<int64_t>(seed <= 60 ? rng_() % 40000 : rng_() % 900000));
    disk_.careful = seed % 4 < 2;
    ReferenceWorld world(seed);
    const Run r = run(world, kCommits);
    died += r.died;
    const bool power_loss = seed % 2 == 0;
    disk_.revive(power_loss, rng_);
    std::string found;
    try {
      auto store = Store::open(options());
      found = describe(*store, world);
    } catch (const StoreError& e) {
      found = e.what();
    }
    ASSERT_TRUE(found == r.acknowledged || found == r.in_flight)
        << "seed " << seed << (power_loss ? " power loss" : " killed") << "\n--- found\n"
        << found.substr(0, 2000) << "\n--- acknowledged\n"
        << r.acknowledged.substr(0, 2000);
  }
  EXPECT_GT(died, 100);
}

// Every write of a run, from the file's creation on: none of it, its first byte, half of it, all
// but its last byte, all of it and nothing more; killed, and with the power gone.
TEST_F(StoreFaultTest, KilledInEachWriteAllThatWasAcknowledgedIsThere) {
  constexpr int kCommits = 14;
  const auto writes_of_a_run = [&] {
    fs::remove_all(options().folder);
    const int64_t before = disk_.writes();
    ReferenceWorld world(3);
    run(world, kCommits);
    disk_.revive(false, rng_);
    return disk_.writes() - before;
  };
  const int64_t writes = writes_of_a_run();
  ASSERT_GT(writes, 40);
  int died = 0;
  for (int64_t n = 0; n < writes; ++n) {
    for (const int64_t bytes : {0, 1, 2048, 4095, 1 << 20}) {
      fs::remove_all(options().folder);
      disk_.die_in_write(n, bytes);
      ReferenceWorld world(3);
      const Run r = run(world, kCommits);
      died += r.died;
      disk_.revive(n % 2 == 0, rng_);
      std::string found;
      try {
        auto store = Store::open(options());
        found = describe(*store, world);
      } catch (const StoreError& e) {
        found = e.what();
      }
      ASSERT_TRUE(found == r.acknowledged || found == r.in_flight)
          << "write " << n << ", " << bytes << " bytes of it\n--- found\n"
          << found.substr(0, 2000) << "\n--- acknowledged\n"
          << r.acknowledged.substr(0, 2000);
    }
  }
  EXPECT_GT(died, 100);
}

TEST_F(StoreFaultTest, ItGoesOnAfterEachOfManyDeaths) {
  ReferenceWorld world(77);
  for (int life = 0; life < 60; ++life) {
    disk_.die_after(static_cast<int64_t>(20000 + rng_() % 120000));
    const ReferenceWorld before = world;
    ReferenceWorld tried = world;
    std::optional<ReferenceWorld> durable;
    try {
      auto store = Store::open(options());
      durable = before;
      for (int i = 0; i < 20; ++i) {
        const auto entries = tried.make_commit();
        store->commit(entries);
        durable = tried;
      }
      disk_.die();
    } catch (const StoreError&) {
    }
    disk_.revive(life % 2 == 0, rng_);
    auto store = Store::open(options());
    const std::string found = describe(*store, tried);
    if (found == describe(tried)) {
      world = tried;
    } else {
      world = durable.value_or(before);
      ASSERT_EQ(describe(*store, world), describe(world)) << "life " << life;
    }
  }
}

// One flipped bit, anywhere: the store tells it, or what it tells is right all the same.
class FlippedBitTest : public StoreFaultTest {
 protected:
  // A store that was closed, or killed with its write-ahead log full of what is nowhere else.
  void make(int commits, bool close) {
    world_.emplace(5);
    auto store = Store::open({options().folder, 16, 2000, checkpoint_pages_});
    for (int i = 0; i < commits; ++i) store->commit(world_->make_commit());
    expected_ = describe(*world_);
    if (close) return;
    disk_.die();
    store.reset();
    disk_.revive(false, rng_);
  }

  // "right", "mended", or what the store says of the damage.
  std::string with_flip(const char* suffix, int64_t bit) {
    const std::string copy = scratch_.path() + "/copy";
    fs::remove_all(copy);
    fs::create_directories(copy);
    for (const char* s : {"", "-wal"}) {
      if (fs::exists(file(s))) fs::copy_file(file(s), copy + "/limpet.sqlite" + s);
    }
    {
      std::fstream f(copy + "/limpet.sqlite" + suffix,
                     std::ios::binary | std::ios::in | std::ios::out);
      f.seekg(bit / 8);
      const char byte = static_cast<char>(f.get() ^ (1 << (bit % 8)));
      f.seekp(bit / 8);
      f.put(byte);
    }
    try {
      auto store = Store::open(options("copy"));
      const std::string found = describe(*store, *world_);
      EXPECT_TRUE(found == expected_) << "served wrong: bit " << bit << " of it" << suffix;
      return store->mended().empty() ? "right" : "mended";
    } catch (const StoreError& e) {
      return e.what();
    }
  }

  void flip(const char* suffix, const std::vector<int64_t>& bits) {
    for (const int64_t bit : bits) {
      const std::string told = with_flip(suffix, bit);
      if (told != "right" && told != "mended") {
        EXPECT_THAT(told, testing::AnyOf(testing::HasSubstr("is damaged ("),
                                         testing::HasSubstr("not a sound limpet store")))
            << bit;
      }
      ++counts_[told == "right" || told == "mended" ? told : "damaged"];
      if (HasFailure()) return;
    }
  }
  std::vector<int64_t> any_bits(const char* suffix, int n) {
    const auto size = static_cast<int64_t>(fs::file_size(file(suffix)));
    std::vector<int64_t> bits;
    for (int i = 0; i < n; ++i) bits.push_back(static_cast<int64_t>(rng_() % (size * 8)));
    return bits;
  }
  static std::vector<int64_t> every_bit(int64_t bytes) {
    std::vector<int64_t> bits;
    for (int64_t i = 0; i < bytes * 8; ++i) bits.push_back(i);
    return bits;
  }

  int64_t checkpoint_pages_ = 12;
  std::optional<ReferenceWorld> world_;
  std::string expected_;
  std::map<std::string, int> counts_;
};

TEST_F(FlippedBitTest, OfTheDatabaseIsDamageThatIsNamed) {
  make(200, true);
  flip("", every_bit(100));  // the header, whose fields say how all else is read
  EXPECT_EQ(counts_["damaged"], 800);
  flip("", any_bits("", 500));
  EXPECT_GT(counts_["damaged"], 800 + 250);  // the others are in pages that hold nothing
  EXPECT_EQ(counts_["mended"], 0);
}

TEST_F(FlippedBitTest, OfTheWriteAheadLogIsPutRightOrNamed) {
  checkpoint_pages_ = 100000;
  make(40, false);
  flip("-wal", every_bit(32));
  flip("-wal", any_bits("-wal", 400));
  const auto size = static_cast<int64_t>(fs::file_size(file("-wal")));
  std::vector<int64_t> last_frame;  // of the last transaction, after which nothing follows
  for (int64_t bit = (size - 4120) * 8; bit < (size - 4120 + 24) * 8; ++bit) {
    last_frame.push_back(bit);
  }
  flip("-wal", last_frame);
  // A word's highest bits weigh the same in many words: which of them flipped cannot be told.
  EXPECT_EQ(counts_["right"], 0);
  EXPECT_EQ(counts_["mended"] + counts_["damaged"], 256 + 400 + 192);
  EXPECT_GT(counts_["mended"], 600);
}

TEST_F(FlippedBitTest, ManyOfTheWriteAheadLogAreDamageThatIsNamed) {
  checkpoint_pages_ = 100000;
  make(40, false);
  std::fstream f(file("-wal"), std::ios::binary | std::ios::in | std::ios::out);
  f.seekp(32 + 4120 * 5 + 1000);
  f << "sixteen bytes of it";
  f.close();
  try {
    Store::open(options());
    ADD_FAILURE() << "served";
  } catch (const StoreError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("frame 6 of its write-ahead log"));
  }
}

// While the store is open: what it reads again is looked at again.
TEST_F(FlippedBitTest, UnderARunningStoreIsMetWhenItIsRead) {
  world_.emplace(5);
  auto store = Store::open(options());
  for (int i = 0; i < 400; ++i) store->commit(world_->make_commit());
  const auto size = static_cast<int64_t>(fs::file_size(file("")));
  std::fstream f(file(""), std::ios::binary | std::ios::in | std::ios::out);
  for (int64_t at = 4096 + 2000; at < size; at += 4096) {
    f.seekg(at);
    const char byte = static_cast<char>(f.get() ^ 4);
    f.seekp(at);
    f.put(byte);
  }
  f.close();
  store.reset();  // its pages in memory go with it
  EXPECT_THROW(
      {
        auto again = Store::open(options());
        describe(*again, *world_);
      },
      StoreError);
}

}  // namespace
}  // namespace limpet::broker
