// SPDX-License-Identifier: Apache-2.0
#include "server/state/sqlite_database.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"

namespace sectormap::state {
namespace {

constexpr mode_t kFileMode = 0600;

// Somebody's sqlite3 shell may hold the file for a moment; a daemon must not fail because of it.
constexpr int kBusyTimeoutMs = 5000;

bool IsNoSpace(int error) { return error == ENOSPC || error == EDQUOT || error == EFBIG; }

// 0 if there is none.
off_t SizeOf(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0 ? info.st_size : 0;
}

// SQLite makes a new database of one that is empty or missing, and deletes its log. A log that
// holds something is that of a database that somebody took away or cut off: all may be in it.
absl::Status CheckNotLost(const std::string& path) {
  if (SizeOf(path) != 0 || SizeOf(path + "-wal") == 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "state database ", path, " is missing or empty, but its log, ", path,
      "-wal, is not; put back the database that it belongs to, or give it up: ", kDamagedAdvice));
}

}  // namespace

SqliteStatement::SqliteStatement(SqliteDatabase& database, std::string_view sql)
    : database_(database) {
  sqlite3_stmt* statement = nullptr;
  result_ = sqlite3_prepare_v2(database.handle(), sql.data(), static_cast<int>(sql.size()),
                               &statement, nullptr);
  statement_.reset(statement);
}

SqliteStatement& SqliteStatement::Bind(std::string_view text) {
  if (result_ == SQLITE_OK) {
    // SQLITE_STATIC would ask the caller to keep the bytes until Run(); a copy of a name or secret
    // costs nothing.
    result_ = sqlite3_bind_text64(statement_.get(), next_parameter_++,
                                  text.data() == nullptr ? "" : text.data(), text.size(),
                                  SQLITE_TRANSIENT, SQLITE_UTF8);
  }
  return *this;
}

SqliteStatement& SqliteStatement::Bind(const std::optional<std::string>& text) {
  if (text.has_value()) return Bind(std::string_view(*text));
  if (result_ == SQLITE_OK) result_ = sqlite3_bind_null(statement_.get(), next_parameter_++);
  return *this;
}

SqliteStatement& SqliteStatement::BindInPlace(const std::optional<std::string>& text) {
  if (!text.has_value()) return Bind(text);
  if (result_ == SQLITE_OK) {
    result_ = sqlite3_bind_text64(statement_.get(), next_parameter_++, text->data(), text->size(),
                                  SQLITE_STATIC, SQLITE_UTF8);
  }
  return *this;
}

SqliteStatement& SqliteStatement::Bind(int64_t number) {
  if (result_ == SQLITE_OK) {
    result_ = sqlite3_bind_int64(statement_.get(), next_parameter_++, number);
  }
  return *this;
}

SqliteStatement& SqliteStatement::BindBlob(std::string_view bytes) {
  if (result_ == SQLITE_OK) {
    result_ = sqlite3_bind_blob64(statement_.get(), next_parameter_++,
                                  bytes.data() == nullptr ? "" : bytes.data(), bytes.size(),
                                  SQLITE_TRANSIENT);
  }
  return *this;
}

absl::StatusOr<bool> SqliteStatement::Step() {
  if (result_ != SQLITE_OK) return database_.Error(result_);
  errno = 0;
  const int stepped = sqlite3_step(statement_.get());
  if (stepped == SQLITE_ROW) return true;
  if (stepped == SQLITE_DONE) return false;
  return database_.Error(stepped);
}

absl::Status SqliteStatement::Run() {
  absl::StatusOr<bool> row = Step();
  if (!row.ok()) return row.status();
  CHECK(!*row);
  return absl::OkStatus();
}

std::string SqliteStatement::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_.get(), column);
  const int length = sqlite3_column_bytes(statement_.get(), column);
  return bytes == nullptr ? std::string() : std::string(static_cast<const char*>(bytes), length);
}

std::optional<std::string> SqliteStatement::OptionalText(int column) const {
  if (sqlite3_column_type(statement_.get(), column) == SQLITE_NULL) return std::nullopt;
  return Text(column);
}

int64_t SqliteStatement::Number(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

absl::StatusOr<std::unique_ptr<SqliteDatabase>> SqliteDatabase::Open(const std::string& path) {
  RETURN_IF_ERROR(CheckNotLost(path));
  // SQLite gives a new file mode 0644 less umask, and -wal and -shm the mode of the database.
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kFileMode);
  if (fd < 0) {
    const std::string what = absl::StrCat("cannot open ", path, ": ", std::strerror(errno));
    if (IsNoSpace(errno)) {
      return absl::ResourceExhaustedError(absl::StrCat(what, "; free space there"));
    }
    if (errno == ELOOP) {
      return absl::PermissionDeniedError(absl::StrCat(
          what,
          "; it must not be a link itself: move the database there, or name the directory "
          "that has it with --state-dir DIR"));
    }
    return absl::PermissionDeniedError(absl::StrCat(
        what, "; make it readable and writable for this user, or give another --state-dir DIR"));
  }
  // A copy that was put back, say from `sqlite3 .backup`, may be open to everybody.
  const int changed = fchmod(fd, kFileMode);
  const int error = errno;
  close(fd);
  if (changed != 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        "cannot give ", path, ", which holds secrets, mode 0600: ", std::strerror(error),
        "; make it this user's own"));
  }

  std::unique_ptr<SqliteDatabase> database(new SqliteDatabase(path));
  sqlite3* handle = nullptr;
  // Not SQLITE_OPEN_NOFOLLOW: it refuses a link anywhere in the path, and systemd's DynamicUser=
  // makes the state directory one. The file itself is none, as O_NOFOLLOW has just said.
  const int result =
      sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  database->handle_.reset(handle);
  if (result != SQLITE_OK) return database->Error(result);
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, kBusyTimeoutMs);
  // The log and its index stay when the last connection closes: to make the index again takes room,
  // and a daemon has to start where the disk is full.
  int keep = 1;
  sqlite3_file_control(handle, "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
  return database;
}

SqliteDatabase::~SqliteDatabase() {
  // All of the log is in the database then; an empty one is not replayed over a file that takes its
  // place.
  if (handle_) Execute("PRAGMA journal_size_limit=0").IgnoreError();
}

absl::Status SqliteDatabase::Execute(const std::string& sql) {
  errno = 0;
  const int result = sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  return result == SQLITE_OK ? absl::OkStatus() : Error(result);
}

absl::Status SqliteDatabase::Error(int result) const {
  // A commit that fails leaves no sqlite3_system_errno (SQLite 3.40), but errno is still that of
  // the system call.
  const int last_error = errno;
  const std::string what = absl::StrCat("state database ", path_, ": ",
                                        handle_ ? sqlite3_errmsg(handle_.get()) : "no memory");
  const int primary = result & 0xff;
  const int told_error = handle_ ? sqlite3_system_errno(handle_.get()) : 0;
  const int system_error = told_error != 0 ? told_error : last_error;
  if (primary == SQLITE_FULL || (primary == SQLITE_IOERR && IsNoSpace(system_error))) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, "; nothing was changed: free space on that file system and try again"));
  }
  switch (primary) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(absl::StrCat(what, "; ", kDamagedAdvice));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::UnavailableError(
          absl::StrCat(what, "; another program holds it: close that and try again"));
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
      return absl::PermissionDeniedError(
          absl::StrCat(what, "; make the state directory writable for this user"));
    case SQLITE_CONSTRAINT:
      return result == SQLITE_CONSTRAINT_FOREIGNKEY ? absl::NotFoundError(what)
                                                    : absl::AlreadyExistsError(what);
    case SQLITE_IOERR:
      return absl::DataLossError(absl::StrCat(what, " (", std::strerror(system_error),
                                              "); check the disk below the state directory"));
    default:
      return absl::InternalError(what);
  }
}

SqliteTransaction::SqliteTransaction(SqliteDatabase& database)
    : database_(database), status_(database.Execute("BEGIN IMMEDIATE")), open_(status_.ok()) {}

SqliteTransaction::~SqliteTransaction() {
  // SQLite has rolled back by itself after some errors; a second ROLLBACK is refused harmlessly.
  if (open_) database_.Execute("ROLLBACK").IgnoreError();
}

absl::Status SqliteTransaction::Commit() {
  absl::Status status = database_.Execute("COMMIT");
  if (status.ok()) open_ = false;
  return status;
}

}  // namespace sectormap::state
