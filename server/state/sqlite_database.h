// SPDX-License-Identifier: Apache-2.0
// SqliteDatabase and SqliteStatement: SQLite's handles with owners, and its errors as absl::Status
// with advice. For one thread at a time. No message ever holds a bound value: secrets are among
// them.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sectormap::state {

// What to do about a damaged database. A log that is left beside another file is replayed over it.
inline constexpr char kDamagedAdvice[] =
    "move it away, and its -wal and -shm too, which would spoil any other that takes its place; "
    "then put a backup there (docs/operations.md), or start with no devices";

class SqliteDatabase;

// A prepared statement, bound and stepped once. Bind in the order of its `?`.
class SqliteStatement {
 public:
  // REQUIRES: `database` outlives it; `sql` is one of ours.
  SqliteStatement(SqliteDatabase& database, std::string_view sql);

  SqliteStatement& Bind(std::string_view text);
  SqliteStatement& Bind(const std::optional<std::string>& text);
  SqliteStatement& Bind(const std::string& text) { return Bind(std::string_view(text)); }
  SqliteStatement& Bind(int64_t number);
  SqliteStatement& Bind(bool truth) { return Bind(int64_t{truth}); }
  // For what may be a hundred megabytes: `text` is not copied, so it stays until Run().
  SqliteStatement& BindInPlace(const std::optional<std::string>& text);
  SqliteStatement& BindBlob(std::string_view bytes);

  // True: a row is there to be read. False: the statement has ended.
  absl::StatusOr<bool> Step();
  // Runs a statement that gives no rows.
  absl::Status Run();

  std::string Text(int column) const;
  std::optional<std::string> OptionalText(int column) const;
  int64_t Number(int column) const;
  bool Truth(int column) const { return Number(column) != 0; }

 private:
  struct Finalizer {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };

  SqliteDatabase& database_;
  std::unique_ptr<sqlite3_stmt, Finalizer> statement_;
  int result_;  // of the first call that failed
  int next_parameter_ = 1;
};

class SqliteDatabase {
 public:
  // Opens or makes the file; either way its mode is 0600 then. DataLoss: it is missing or empty,
  // and its log is not.
  static absl::StatusOr<std::unique_ptr<SqliteDatabase>> Open(const std::string& path);

  // Closes it. A file that nobody else has open is whole without its log then.
  ~SqliteDatabase();

  // Statements of ours without parameters, several at once.
  absl::Status Execute(const std::string& sql);

  // The status for a result code of the last call, with what to do about it.
  absl::Status Error(int result) const;

  sqlite3* handle() { return handle_.get(); }

 private:
  struct Closer {
    void operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }
  };

  explicit SqliteDatabase(std::string path) : path_(std::move(path)) {}

  const std::string path_;
  std::unique_ptr<sqlite3, Closer> handle_;
};

// BEGIN IMMEDIATE now; rolls back at the end of the scope unless committed.
class SqliteTransaction {
 public:
  explicit SqliteTransaction(SqliteDatabase& database);
  ~SqliteTransaction();
  SqliteTransaction(const SqliteTransaction&) = delete;
  SqliteTransaction& operator=(const SqliteTransaction&) = delete;

  // Whether it has begun.
  const absl::Status& status() const { return status_; }
  absl::Status Commit();

 private:
  SqliteDatabase& database_;
  absl::Status status_;
  bool open_ = false;
};

}  // namespace sectormap::state
