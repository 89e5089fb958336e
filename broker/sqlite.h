// A thin owner of one SQLite connection, whose file is checked (checked_vfs.h), and of prepared
// statements. Every failure throws
// StoreError with SQLite's words and the file's name. One thread.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "broker/checked_vfs.h"

struct sqlite3;
struct sqlite3_stmt;

namespace limpet::broker {

// The store cannot be opened, read or written. what() is one line that says what to do.
class StoreError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// There is no room on the disk: with some, it goes on from what is durable.
class StoreFull : public StoreError {
 public:
  using StoreError::StoreError;
};

// Throws what a store that is not what was written to it throws.
[[noreturn]] void throw_damaged(const std::string& path, const std::string& what);

class Database;

// A prepared statement. bind() counts from 1; text and blobs must live until the next reset().
class Statement {
 public:
  Statement() = default;
  Statement(Database& db, std::string_view sql);

  Statement& bind(int64_t value);
  Statement& bind(double value);
  Statement& bind(std::string_view text);
  Statement& bind_blob(std::string_view bytes);

  bool step();  // true: a row is there
  void run();   // steps to the end, then resets
  void reset();

  // Of the current row, counted from 0; views live until the next step().
  int64_t integer(int column) const;
  double real(int column) const;
  std::string_view text(int column) const;
  std::string_view blob(int column) const;

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* s) const;
  };
  Database* db_ = nullptr;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int next_ = 1;
};

class Database {
 public:
  explicit Database(std::string path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  void execute(const char* sql);
  int64_t integer(const char* sql);  // the first column of the first row
  std::string text(const char* sql);
  const std::string& path() const { return path_; }
  // Where the file is not what was written to it, when that has been met; empty otherwise.
  std::string damage() const { return vfs_.damage(); }
  sqlite3* handle() const { return handle_; }
  void count_log_pages();  // from here on, for log_pages(); takes the place of autocheckpoint
  int64_t log_pages() const { return log_pages_; }  // of the write-ahead log, at the last commit

  [[noreturn]] void fail(std::string_view doing);

 private:
  std::string path_;
  CheckedVfs vfs_;
  sqlite3* handle_ = nullptr;
  int64_t log_pages_ = 0;
};

}  // namespace limpet::broker
