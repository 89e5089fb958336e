// The store's tables, and how a file of an older version becomes one of this version.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "broker/store_impl.h"
#include "broker/wal_check.h"

namespace limpet::broker {
namespace {

constexpr const char* kTables = R"sql(
CREATE TABLE log(sequence INTEGER PRIMARY KEY, records BLOB NOT NULL) STRICT;
CREATE TABLE session(
  number INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, name TEXT NOT NULL,
  epoch INTEGER NOT NULL, home TEXT NOT NULL, incarnation INTEGER NOT NULL,
  reason INTEGER NOT NULL, tokens INTEGER NOT NULL, last_job INTEGER NOT NULL,
  model INTEGER NOT NULL, tenant TEXT NOT NULL, keep_alive_ms INTEGER NOT NULL,
  max_tokens INTEGER NOT NULL, used_at INTEGER NOT NULL) STRICT;
CREATE TABLE job(
  number INTEGER PRIMARY KEY, id TEXT NOT NULL, sequence INTEGER NOT NULL,
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
  session_tokens INTEGER NOT NULL, failures INTEGER NOT NULL, tenant TEXT NOT NULL,
  UNIQUE(id, tenant)) STRICT;
CREATE INDEX live_job ON job(number) WHERE state < 3;
CREATE INDEX tenant_job ON job(tenant, number) WHERE tenant <> '';
CREATE INDEX failed_job ON job(number) WHERE state = 4;
CREATE TABLE chunk(key INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
)sql";

// What was renamed in the folder stays so.
void sync_folder(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool done = fd >= 0 && ::fsync(fd) == 0;
  const int why = errno;
  if (fd >= 0) ::close(fd);
  if (!done) throw StoreError("cannot sync " + folder.string() + ": " + std::strerror(why));
}

void remove_store(const std::string& path) {
  for (const char* suffix : {"", "-journal", "-wal", "-shm"}) ::unlink((path + suffix).c_str());
}

// Version 1 had no session.model and no job.failures, version 2 no tenants, version 3 no checksums
// of pages, version 4 no terms of sessions. Log rows are read as they are.
void copy_rows(Database& to, int64_t version) {
  const std::string added = version == 1 ? ", 0, ''" : version == 2 ? ", ''" : "";
  to.execute("INSERT INTO main.log SELECT * FROM old.log");
  to.execute(("INSERT INTO main.session SELECT *" + added + ", -1, 0, 0 FROM old.session").c_str());
  to.execute(("INSERT INTO main.job SELECT *" + added + " FROM old.job").c_str());
  to.execute("INSERT INTO main.chunk SELECT * FROM old.chunk");
}

// The version of a store that is older than this one; 0 when there is nothing to upgrade.
int64_t older_version(const std::string& path) {
  if (!std::filesystem::exists(path)) return 0;
  Database db(path);  // when it closes, nothing is left in a write-ahead log
  if (db.integer("PRAGMA application_id") != kStoreApplication) return 0;
  const int64_t version = db.integer("PRAGMA user_version");
  return version < kStoreVersion ? version : 0;
}

}  // namespace

void create_tables(Database& db) {
  db.execute("BEGIN IMMEDIATE");
  db.execute(("PRAGMA application_id = " + std::to_string(kStoreApplication)).c_str());
  db.execute(("PRAGMA user_version = " + std::to_string(kStoreVersion)).c_str());
  db.execute(kTables);
  db.execute("COMMIT");
}

std::string made_ready(const std::string& path, std::vector<std::string>& mended) {
  const std::string fresh = path + ".upgrade";
  remove_store(fresh);
  const WalCheck log = check_wal(path + "-wal");
  if (!log.damage.empty()) throw_damaged(path, log.damage + " of its write-ahead log");
  mended = log.mended;
  const int64_t version = older_version(path);
  if (version == 0) return path;
  {
    Database db(fresh);
    create_tables(db);
    Statement(db, "ATTACH ? AS old").bind(std::string_view(path)).run();
    db.execute("BEGIN IMMEDIATE");
    copy_rows(db, version);
    db.execute("COMMIT");
    db.execute("DETACH old");
  }
  if (std::filesystem::exists(path + "-wal")) {
    throw StoreError("the store " + path + " is in use by another program: stop that first.");
  }
  if (::rename(fresh.c_str(), path.c_str()) != 0) {
    throw StoreError("cannot upgrade the store " + path + ": " + std::strerror(errno));
  }
  sync_folder(std::filesystem::path(path).parent_path());
  return path;
}

}  // namespace limpet::broker
