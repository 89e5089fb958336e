#include "broker/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "broker/sqlite.h"
#include "tests/broker/journal_reference.h"
#include "tests/broker/scratch_folder.h"

namespace limpet::broker {
namespace {

namespace fs = std::filesystem;

class StoreTest : public testing::Test {
 protected:
  // Small bounds, so that a short run folds, sweeps and cuts the log many times.
  Store::Options options() const { return {folder_ + "/data", 16, 2000, 1000}; }
  std::string file() const { return folder_ + "/data/limpet.sqlite"; }

  std::string open_error() const {
    try {
      Store::open(options());
    } catch (const StoreError& e) {
      return e.what();
    }
    return "";
  }

  // Past the store, into its file; its pages keep their checksums.
  void execute(const char* sql) { Database(file()).execute(sql); }
  // As a program that knows nothing of checksums.
  static void execute_plainly(const std::string& path, const std::string& sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(db);
    sqlite3_close(db);
  }
  // What version 5 has brought.
  void drop_terms() {
    execute("DROP INDEX IF EXISTS failed_job");
    for (const char* column : {"keep_alive_ms", "max_tokens", "used_at"}) {
      execute(("ALTER TABLE session DROP COLUMN " + std::string(column)).c_str());
    }
  }
  // What a version before 4 has written: no page has a checksum.
  void make_version(int version) {
    drop_terms();
    std::string sql = "ATTACH '" + file() + "' AS f;";
    {
      Database from(file());
      Statement schema(from, "SELECT sql, name, type FROM sqlite_schema WHERE sql IS NOT NULL");
      while (schema.step()) {
        const std::string name(schema.text(1));
        sql += std::string(schema.text(0)) + ";";
        if (schema.text(2) != "table") continue;
        sql += "INSERT INTO " + name + " SELECT * FROM f." + name + ";";
      }
    }
    const std::string plain = file() + ".plain";
    execute_plainly(plain, sql + "PRAGMA application_id = 1280135252; PRAGMA user_version = " +
                               std::to_string(version));
    fs::rename(plain, file());
  }
  // The tables of version 2 instead of today's.
  void make_older() {
    execute("DROP INDEX tenant_job");
    execute("ALTER TABLE session DROP COLUMN tenant");
    execute(R"(CREATE TABLE older(
      number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, sequence INTEGER NOT NULL,
      session INTEGER NOT NULL, body_hash INTEGER NOT NULL, seed INTEGER NOT NULL,
      accepted_at INTEGER NOT NULL, deadline_at INTEGER NOT NULL, state INTEGER NOT NULL,
      attempt INTEGER NOT NULL, why TEXT NOT NULL, previous INTEGER NOT NULL,
      base_tokens INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
      started INTEGER NOT NULL, started_attempt INTEGER NOT NULL, worker TEXT NOT NULL,
      residency INTEGER NOT NULL, reason INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
      prefilled_tokens INTEGER NOT NULL, finish_reason INTEGER NOT NULL, tail_text TEXT NOT NULL,
      error_code INTEGER NOT NULL, error_message TEXT NOT NULL, usage_prompt INTEGER NOT NULL,
      usage_cached INTEGER NOT NULL, usage_output INTEGER NOT NULL, queue_seconds REAL NOT NULL,
      first_token_seconds REAL NOT NULL, total_seconds REAL NOT NULL, ended_at INTEGER NOT NULL,
      session_tokens INTEGER NOT NULL, failures INTEGER NOT NULL DEFAULT 0) STRICT)");
    execute("INSERT INTO older SELECT number, id, sequence, session, body_hash, seed, accepted_at,"
            " deadline_at, state, attempt, why, previous, base_tokens, prompt_tokens,"
            " output_tokens, started, started_attempt, worker, residency, reason, cached_tokens,"
            " prefilled_tokens, finish_reason, tail_text, error_code, error_message, usage_prompt,"
            " usage_cached, usage_output, queue_seconds, first_token_seconds, total_seconds,"
            " ended_at, session_tokens, failures FROM job");
    execute("DROP TABLE job");
    execute("ALTER TABLE older RENAME TO job");
    execute("CREATE INDEX live_job ON job(number) WHERE state < 3");
  }

  ScratchFolder scratch_;
  const std::string& folder_ = scratch_.path();
};

TEST_F(StoreTest, RemembersWhatAReferenceRemembers) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    fs::remove_all(folder_ + "/data");
    ReferenceWorld world(seed);
    auto store = Store::open(options());
    for (int commit = 0; commit < 300; ++commit) {
      store->commit(world.make_commit());
      if (world.random(40) == 0) {
        store.reset();
        store = Store::open(options());
      }
      if (commit % 20 == 0) {
        ASSERT_EQ(describe(*store, world), describe(world)) << "seed " << seed << " " << commit;
      }
    }
    ASSERT_EQ(describe(*store, world), describe(world)) << "seed " << seed;
    EXPECT_LT(store->counters().log_rows, 290) << "the log was never cut";
  }
}

TEST_F(StoreTest, OutputFromAnyIndex) {
  ReferenceWorld world(77);
  auto store = Store::open(options());
  for (int commit = 0; commit < 400; ++commit) store->commit(world.make_commit());
  for (const auto& [number, job] : world.jobs) {
    std::vector<Token> ids;
    std::string text_from;
    for (const auto& row : job.rows) ids.insert(ids.end(), row.ids.begin(), row.ids.end());
    for (int64_t from = 0; from <= job.output(); ++from) {
      std::vector<Token> got;
      std::string got_text, want_text;
      store->read_output(JobNumber(number), from, [&](OutputRow&& row) {
        EXPECT_EQ(row.first_index, from + static_cast<int64_t>(got.size()));
        got.insert(got.end(), row.ids.begin(), row.ids.end());
        got_text += row.text;
        return true;
      });
      for (const auto& row : job.rows) {
        if (row.first_index + static_cast<int64_t>(row.ids.size()) > from) want_text += row.text;
      }
      ASSERT_EQ(got, std::vector<Token>(ids.begin() + from, ids.end())) << number << " " << from;
      ASSERT_EQ(got_text, want_text) << number << " " << from;
    }
  }
}

// A child commits and is killed; what it left must be the commits that it told of, or one more.
TEST_F(StoreTest, AKilledBrokerLeavesACommittedPrefix) {
  for (uint64_t seed = 1; seed <= 25; ++seed) {
    fs::remove_all(folder_ + "/data");
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      ReferenceWorld world(seed);
      auto store = Store::open(options());
      for (int commit = 0; commit < 100000; ++commit) {
        store->commit(world.make_commit());
        if (write(pipe_ends[1], "c", 1) != 1) _exit(1);
      }
      _exit(0);
    }
    close(pipe_ends[1]);
    const int until = static_cast<int>(3 + seed * 17 % 230);
    int told = 0;
    char c;
    while (told < until && read(pipe_ends[0], &c, 1) == 1) ++told;
    usleep(static_cast<useconds_t>(seed * 37 % 400));
    kill(child, SIGKILL);
    while (read(pipe_ends[0], &c, 1) == 1) ++told;
    close(pipe_ends[0]);
    waitpid(child, nullptr, 0);

    ReferenceWorld world(seed);
    for (int i = 0; i < told; ++i) world.make_commit();
    const std::string before = describe(world);
    world.make_commit();
    auto store = Store::open(options());
    const std::string found = describe(*store, world);
    EXPECT_TRUE(found == before || found == describe(world)) << "seed " << seed;
  }
}

TEST_F(StoreTest, NumbersAreNeverGivenTwice) {
  {
    auto store = Store::open(options());
    store->commit(std::vector<JournalEntry>{SessionOpened{SessionNumber(41), ""},
                                            SessionClosed{SessionNumber(41)}});
  }
  SessionNumber highest{};
  Store::open(options())->snapshot([&](const JournalEntry& e) {
    if (auto* n = std::get_if<NumbersReserved>(&e)) highest = n->session;
  });
  EXPECT_EQ(highest, SessionNumber(41));
}

TEST_F(StoreTest, EphemeralSessionsLeaveNothingButTheirJob) {
  auto store = Store::open(options());
  auto spec = std::make_shared<JobSpec>();
  spec->job_id = "j";
  spec->text = "hello";
  JobEndedEntry end;
  end.job = JobNumber(1);
  StartedEntry started;
  started.job = JobNumber(1);
  started.attempt = Attempt(1);
  started.has_prompt = true;
  started.prompt = {1, 2, 3};
  store->commit(std::vector<JournalEntry>{
      SessionOpened{SessionNumber(1), ""},
      JobAccepted{JobNumber(1), SessionNumber(1), spec, 5, 6, 7, 0},
      JobDispatched{JobNumber(1), Attempt(1)}, started,
      TokensAppended{{{JobNumber(1), 0, {8, 9}, "ab", {}}}}});
  store->commit(std::vector<JournalEntry>{end, SessionClosed{SessionNumber(1)}});
  store.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(file().c_str(), &db), SQLITE_OK);
  auto count = [&](const char* sql) {
    sqlite3_stmt* s = nullptr;
    EXPECT_EQ(sqlite3_prepare_v2(db, sql, -1, &s, nullptr), SQLITE_OK);
    EXPECT_EQ(sqlite3_step(s), SQLITE_ROW);
    const int n = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return n;
  };
  EXPECT_EQ(count("SELECT count(*) FROM session"), 0);
  EXPECT_EQ(count("SELECT count(*) FROM job"), 1);
  EXPECT_EQ(count("SELECT count(*) FROM chunk"), 1);  // the output
  sqlite3_close(db);
}

TEST_F(StoreTest, TwoBrokersCannotShareAFolder) {
  auto store = Store::open(options());
  EXPECT_THAT(open_error(), testing::HasSubstr("another broker is using the data folder"));
  store.reset();
  EXPECT_EQ(open_error(), "");
}

TEST_F(StoreTest, ForeignNewerAndDamagedFilesAreRefused) {
  fs::create_directories(folder_ + "/data");
  std::ofstream(file()) << std::string(5000, 'x');
  EXPECT_THAT(open_error(), testing::HasSubstr("not a sound limpet store"));
  fs::remove(file());

  execute_plainly(file(), "CREATE TABLE other(x)");
  EXPECT_THAT(open_error(), testing::HasSubstr("is not a limpet store"));
  fs::remove(file());

  const JournalEntry entry = SessionOpened{SessionNumber(1), ""};
  Store::open(options())->commit(std::span(&entry, 1));
  execute("UPDATE log SET records = x'0102'");
  EXPECT_THAT(open_error(), testing::HasSubstr("is damaged"));
  execute("PRAGMA user_version = 9");
  EXPECT_THAT(open_error(), testing::HasSubstr("written by a newer limpet"));
}

TEST_F(StoreTest, EndedJobsAreListedForTheirTenantOrForAll) {
  ReferenceWorld world(9);
  auto store = Store::open(options());
  for (int commit = 0; commit < 300; ++commit) store->commit(world.make_commit());
  std::map<std::string, int> ended;
  for (const auto& [number, job] : world.jobs) ended[job.tenant] += job.ended() && !job.replaced;
  ASSERT_EQ(ended.size(), 3u);
  size_t all = 0;
  for (const auto& [tenant, n] : ended) {
    const auto listed = store->ended_jobs({}, 1000, &tenant).jobs;
    EXPECT_EQ(std::ssize(listed), n);
    for (const JobInfo& job : listed) EXPECT_EQ(job.tenant, tenant);
    all += listed.size();
  }
  EXPECT_EQ(store->ended_jobs({}, 1000, nullptr).jobs.size(), all);
  const std::string nobody = "nobody", acme = "a";
  EXPECT_TRUE(store->ended_jobs({}, 1000, &nobody).jobs.empty());
  EXPECT_EQ(store->ended_jobs({}, 1, &acme).jobs.size(), 1u);
}

TEST_F(StoreTest, AStoreOfVersionOneIsUpgraded) {
  ReferenceWorld world(5, false, false);
  {
    auto store = Store::open(options());
    for (int commit = 0; commit < 50; ++commit) store->commit(world.make_commit());
  }
  make_older();
  execute("ALTER TABLE session DROP COLUMN model");
  execute("ALTER TABLE job DROP COLUMN failures");
  make_version(1);
  {
    auto store = Store::open(options());
    EXPECT_EQ(store->counters().sessions, static_cast<int64_t>(world.sessions.size()));
    for (int commit = 0; commit < 50; ++commit) store->commit(world.make_commit());
  }
  EXPECT_EQ(open_error(), "");
}

TEST_F(StoreTest, AStoreOfVersionTwoIsUpgradedWithAllThatItHolds) {
  ReferenceWorld world(6, false, false);
  {
    auto store = Store::open(options());
    for (int commit = 0; commit < 300; ++commit) store->commit(world.make_commit());
  }
  make_older();
  make_version(2);
  std::ofstream(file() + ".upgrade") << "what a broker left that died while it upgraded";
  {
    auto store = Store::open(options());
    EXPECT_EQ(describe(*store, world), describe(world));
    for (int commit = 0; commit < 50; ++commit) store->commit(world.make_commit());
    EXPECT_EQ(describe(*store, world), describe(world));
  }
  auto store = Store::open(options());
  EXPECT_EQ(describe(*store, world), describe(world));
  EXPECT_FALSE(fs::exists(file() + ".upgrade"));
}

TEST_F(StoreTest, AStoreOfVersionThreeIsUpgradedToPagesWithChecksums) {
  ReferenceWorld world(7, true, false);
  {
    auto store = Store::open(options());
    for (int commit = 0; commit < 300; ++commit) store->commit(world.make_commit());
  }
  make_version(3);
  EXPECT_EQ(describe(*Store::open(options()), world), describe(world));
  std::string page(4096, '\0');
  std::ifstream(file(), std::ios::binary).read(page.data(), 4096);
  EXPECT_EQ(page[20], 8) << "bytes that SQLite leaves for a checksum";
}

TEST_F(StoreTest, AStoreOfVersionFourIsUpgradedToSessionsWithTerms) {
  ReferenceWorld world(8, true, false);
  {
    auto store = Store::open(options());
    for (int commit = 0; commit < 300; ++commit) store->commit(world.make_commit());
  }
  drop_terms();
  execute("PRAGMA user_version = 4");
  EXPECT_EQ(describe(*Store::open(options()), world), describe(world));
  EXPECT_EQ(describe(*Store::open(options()), world), describe(world));
}

TEST_F(StoreTest, AFolderThatCannotBeIsToldClearly) {
  std::ofstream(folder_ + "/data") << "a file, not a folder";
  EXPECT_THAT(open_error(), testing::HasSubstr("--data"));
}

TEST_F(StoreTest, AReadOnlyFolderIsToldClearly) {
  ASSERT_EQ(chmod(folder_.c_str(), 0555), 0);
  const bool root = geteuid() == 0;  // whom permissions do not stop
  if (root) {
    ASSERT_EQ(seteuid(65534), 0);
  }
  const std::string error = open_error();
  if (root) {
    ASSERT_EQ(seteuid(0), 0);
  }
  chmod(folder_.c_str(), 0755);
  EXPECT_THAT(error, testing::AllOf(testing::HasSubstr("data folder"),
                                    testing::HasSubstr("--data")));
}

TEST_F(StoreTest, AFullDiskKeepsWhatWasCommitted) {
  ReferenceWorld world(5);
  std::string good;
  std::string error;
  {
    auto store = Store::open(options());
    for (int i = 0; i < 20; ++i) store->commit(world.make_commit());
    good = describe(world);
    // Files cannot grow beyond this: what SQLite meets is what it meets on a full disk.
    struct rlimit before {};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit tight = before;
    tight.rlim_cur = 256 << 10;
    auto* old = std::signal(SIGXFSZ, SIG_IGN);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
    std::string next = good;
    try {
      for (int i = 0; i < 100000; ++i) {
        const auto entries = world.make_commit();
        next = describe(world);
        store->commit(entries);
        good = next;
      }
    } catch (const StoreError& e) {
      error = e.what();
    }
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, old);
    EXPECT_THROW(store->commit(world.make_commit()), StoreError);
  }
  EXPECT_THAT(error, testing::HasSubstr("using the store"));
  auto store = Store::open(options());
  EXPECT_EQ(describe(*store, world), good);
}

// As after a kill, when the index of the write-ahead log has to be made anew.
TEST_F(StoreTest, OpenedOnAFullDiskItSaysThatTheDiskIsFull) {
  namespace fs = std::filesystem;
  ReferenceWorld world(6);
  Store::Options killed = options();
  killed.folder += "-killed";
  fs::create_directories(killed.folder);
  {
    auto store = Store::open(options());
    for (int i = 0; i < 20; ++i) store->commit(world.make_commit());
    for (const char* file : {"/limpet.sqlite", "/limpet.sqlite-wal"}) {
      fs::copy_file(options().folder + file, killed.folder + file);
    }
  }
  struct rlimit before {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit tight = before;
  tight.rlim_cur = 8192;
  auto* old = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  EXPECT_THROW(Store::open(killed), StoreFull);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old);
  EXPECT_EQ(describe(*Store::open(killed), world), describe(world));
}

TEST_F(StoreTest, ContradictionsAreBugs) {
  auto store = Store::open(options());
  EXPECT_THROW(store->commit(std::vector<JournalEntry>{JobDispatched{JobNumber(3), Attempt(1)}}),
               std::logic_error);
}

}  // namespace
}  // namespace limpet::broker
