#include "broker/sqlite.h"

#include <sqlite3.h>

#include <cerrno>

namespace limpet::broker {

void Statement::Finalize::operator()(sqlite3_stmt* s) const { sqlite3_finalize(s); }

Statement::Statement(Database& db, std::string_view sql) : db_(&db) {
  sqlite3_stmt* raw_statement = nullptr;
  if (sqlite3_prepare_v3(db.handle(), sql.data(), static_cast<int>(sql.size()),
                         SQLITE_PREPARE_PERSISTENT, &raw_statement, nullptr) != SQLITE_OK) {
    db.fail("preparing a statement on");
  }
  statement_.reset(raw_statement);
}

Statement& Statement::bind(int64_t value) {
  sqlite3_bind_int64(statement_.get(), next_++, value);
  return *this;
}
Statement& Statement::bind(double value) {
  sqlite3_bind_double(statement_.get(), next_++, value);
  return *this;
}
Statement& Statement::bind(std::string_view text) {
  const char* data = text.empty() ? "" : text.data();  // a null pointer would bind NULL
  if (sqlite3_bind_text64(statement_.get(), next_++, data, text.size(), SQLITE_STATIC,
                          SQLITE_UTF8) != SQLITE_OK) {
    db_->fail("binding text for");
  }
  return *this;
}
Statement& Statement::bind_blob(std::string_view bytes) {
  const char* data = bytes.empty() ? "" : bytes.data();
  if (sqlite3_bind_blob64(statement_.get(), next_++, data, bytes.size(), SQLITE_STATIC) !=
      SQLITE_OK) {
    db_->fail("binding a blob for");
  }
  return *this;
}

bool Statement::step() {
  const int rc = sqlite3_step(statement_.get());
  if (rc == SQLITE_ROW) return true;
  if (rc == SQLITE_DONE) return false;
  reset();
  db_->fail("using");
}

void Statement::run() {
  while (step()) {
  }
  reset();
}

void Statement::reset() {
  sqlite3_reset(statement_.get());
  next_ = 1;
}

int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}
double Statement::real(int column) const {
  return sqlite3_column_double(statement_.get(), column);
}
std::string_view Statement::text(int column) const {
  const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
  return {data, data ? static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column)) : 0};
}
std::string_view Statement::blob(int column) const {
  const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_.get(), column));
  return {data, data ? static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column)) : 0};
}

Database::Database(std::string path) : path_(std::move(path)) {
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  if (sqlite3_open_v2(path_.c_str(), &handle_, flags, vfs_.name()) != SQLITE_OK) {
    const std::string why = handle_ ? sqlite3_errmsg(handle_) : "out of memory";
    sqlite3_close_v2(handle_);
    throw StoreError("cannot open the store " + path_ + ": " + why);
  }
  sqlite3_extended_result_codes(handle_, 1);
  sqlite3_busy_timeout(handle_, 1000);
  int reserve = kPageChecksumBytes;  // of a new file; one that is there keeps what it has
  sqlite3_file_control(handle_, "main", SQLITE_FCNTL_RESERVE_BYTES, &reserve);
}

void Database::count_log_pages() {
  sqlite3_wal_hook(
      handle_,
      [](void* self, sqlite3*, const char*, int pages) {
        static_cast<Database*>(self)->log_pages_ = pages;
        return SQLITE_OK;
      },
      this);
}

Database::~Database() { sqlite3_close_v2(handle_); }

void Database::execute(const char* sql) {
  if (sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) fail("writing");
}

int64_t Database::integer(const char* sql) {
  Statement s(*this, sql);
  return s.step() ? s.integer(0) : 0;
}

std::string Database::text(const char* sql) {
  Statement s(*this, sql);
  return s.step() ? std::string(s.text(0)) : std::string();
}

void throw_damaged(const std::string& path, const std::string& what) {
  throw StoreError("the store " + path + " is damaged (" + what +
                   "): restore it from a copy, or choose another folder with --data.");
}

// SQLite says so itself where it writes; not where it makes, or lengthens, the file that indexes
// its write-ahead log, as it does first of all on a store that was killed.
static bool no_room(sqlite3* handle) {
  const int extended = sqlite3_extended_errcode(handle), code = extended & 0xff;
  const int cause = sqlite3_system_errno(handle);
  return code == SQLITE_FULL || extended == SQLITE_IOERR_SHMSIZE ||
         ((code == SQLITE_IOERR || code == SQLITE_CANTOPEN) &&
          (cause == ENOSPC || cause == EDQUOT));
}

void Database::fail(std::string_view doing) {
  const int code = sqlite3_extended_errcode(handle_) & 0xff;
  if (const std::string place = damage(); !place.empty()) throw_damaged(path_, place);
  std::string line = std::string(doing) + " the store " + path_ + " failed: " +
                     sqlite3_errmsg(handle_) + " (" +
                     std::to_string(sqlite3_extended_errcode(handle_)) + "). ";
  if (no_room(handle_)) {
    line += "The disk is full: free some space, and the broker goes on; what it answered is safe.";
    throw StoreFull(line);
  } else if (code == SQLITE_READONLY || code == SQLITE_CANTOPEN || code == SQLITE_PERM) {
    line += "Make the data folder writable for this user, or choose another with --data.";
  } else if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT) {
    line += "The file is not a sound limpet store: restore it from a copy, or choose another"
            " folder with --data.";
  } else {
    line += "Check the disk under the data folder.";
  }
  throw StoreError(line);
}

}  // namespace limpet::broker
