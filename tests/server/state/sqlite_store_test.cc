// SPDX-License-Identifier: Apache-2.0
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

#include "absl/strings/match.h"
#include "server/state/state_lock.h"
#include "server/state/state_store.h"
#include "tests/support/test_directory.h"

namespace sectormap::state {

namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class SqliteStoreTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }

  void Open(const StoreOptions& options = {}) {
    store_.reset();
    auto opened = OpenSqliteStore(directory(), options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }

  Contents Load() {
    auto contents = store_->LoadAll();
    EXPECT_TRUE(contents.ok()) << contents.status();
    return contents.ok() ? *contents : Contents{};
  }

  static DeviceRecord Device(const std::string& name) {
    return {.identity = "id-" + name, .name = name, .uuid = "", .live_table = "0 8 zero\n"};
  }
  static TargetRecord Target(const std::string& iqn) { return {.iqn = iqn}; }
  static ExportRecord ExportOf(const std::string& iqn, uint64_t lun, const std::string& name) {
    return {.iqn = iqn, .lun_number = lun, .device_identity = "id-" + name};
  }

  std::string directory() const { return scratch_.path().string() + "/a/state"; }
  std::string database() const { return directory() + "/sectormap.db"; }

  // What a person with the sqlite3 shell could do to the file.
  void RunSql(const std::string& sql) {
    sqlite3* handle = nullptr;
    ASSERT_EQ(sqlite3_open(database().c_str(), &handle), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(handle);
    sqlite3_close(handle);
  }

  static mode_t ModeOf(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return info.st_mode & 0777;
  }

  TestDirectory scratch_{"/tmp"};
  std::unique_ptr<StateStore> store_;
};

TEST_F(SqliteStoreTest, KeepsEveryFieldOfADeviceAcrossAReopen) {
  const DeviceRecord full{.identity = "i1",
                          .name = "data \"1\"",
                          .uuid = "LVM-abc",
                          .live_table = "0 8 linear /x 0\n8 8 zero\n",
                          .inactive_table = "0 16 error\n",
                          .live_read_only = true,
                          .inactive_read_only = true,
                          .suspended = true,
                          .deferred_remove = true};
  const DeviceRecord bare{.identity = "i2", .name = "empty"};
  ASSERT_TRUE(store_->PutDevice(full).ok());
  ASSERT_TRUE(store_->PutDevice(bare).ok());
  Open();
  EXPECT_THAT(Load().devices, ::testing::ElementsAre(full, bare));
}

TEST_F(SqliteStoreTest, TellsAnEmptyTableFromNone) {
  DeviceRecord device = Device("d");
  device.live_table = "";
  ASSERT_TRUE(store_->PutDevice(device).ok());
  Open();
  EXPECT_THAT(Load().devices, ::testing::ElementsAre(device));
}

TEST_F(SqliteStoreTest, KeepsTargetsTheirAccessAndTheirExports) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  TargetRecord target = Target("iqn.x:t");
  target.allowed_initiators = {"iqn.b", "iqn.a"};
  target.chap = ChapRecord{"user", "0123456789ab"};
  target.mutual_chap = ChapRecord{"target", "ba9876543210"};
  ExportRecord entry = ExportOf("iqn.x:t", 7, "d");
  entry.read_only = true;
  ASSERT_TRUE(store_->PutExport(target, entry).ok());
  Open();
  const Contents contents = Load();
  ASSERT_THAT(contents.targets, SizeIs(1));
  EXPECT_EQ(contents.targets[0].allowed_initiators, target.allowed_initiators);
  ASSERT_TRUE(contents.targets[0].chap.has_value());
  EXPECT_EQ(contents.targets[0].chap->user, "user");
  EXPECT_EQ(contents.targets[0].chap->secret, "0123456789ab");
  ASSERT_TRUE(contents.targets[0].mutual_chap.has_value());
  EXPECT_EQ(contents.targets[0].mutual_chap->secret, "ba9876543210");
  ASSERT_THAT(contents.exports, SizeIs(1));
  EXPECT_EQ(contents.exports[0].lun_number, 7u);
  EXPECT_EQ(contents.exports[0].device_identity, "id-d");
  EXPECT_TRUE(contents.exports[0].read_only);
}

TEST_F(SqliteStoreTest, ReplacingADeviceKeepsItsExportsAndItsReservation) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  ASSERT_TRUE(store_->PutExport(Target("t"), ExportOf("t", 0, "d")).ok());
  ASSERT_TRUE(store_->PutReservation("id-d", "registrants").ok());
  DeviceRecord renamed = Device("d");
  renamed.name = "e";
  ASSERT_TRUE(store_->PutDevice(renamed).ok());
  EXPECT_THAT(Load().exports, SizeIs(1));
  EXPECT_EQ(store_->Reservation("id-d").value(), "registrants");
}

TEST_F(SqliteStoreTest, DeletingADeviceTakesItsExportsItsReservationAndEmptyTargets) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  ASSERT_TRUE(store_->PutDevice(Device("other")).ok());
  ASSERT_TRUE(store_->PutExport(Target("t"), ExportOf("t", 0, "d")).ok());
  ASSERT_TRUE(store_->PutExport(Target("shared"), ExportOf("shared", 0, "d")).ok());
  ASSERT_TRUE(store_->PutExport(Target("shared"), ExportOf("shared", 1, "other")).ok());
  ASSERT_TRUE(store_->PutReservation("id-d", "x").ok());
  ASSERT_TRUE(store_->DeleteDevice("id-d").ok());
  const Contents contents = Load();
  ASSERT_THAT(contents.targets, SizeIs(1));
  EXPECT_EQ(contents.targets[0].iqn, "shared");
  EXPECT_THAT(contents.exports, SizeIs(1));
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  EXPECT_EQ(store_->Reservation("id-d").value(), "");
}

TEST_F(SqliteStoreTest, KeepsSnapshotsFilesAndOperationsAcrossAReopen) {
  const SnapshotRecord snapshot{.device_identity = "id-s",
                                .origin_identity = "id-d",
                                .store = "/stores/s",
                                .created_unix_seconds = 1'700'000'000,
                                .grow_at_percent = 70,
                                .grow_by_percent = 20,
                                .limit_sectors = 1 << 20};
  const OperationRecord operation{.id = 7,
                                  .kind = "move",
                                  .device = "d",
                                  .state = "running",
                                  .plan = "piece 0 8\n",
                                  .done_bytes = 512,
                                  .total_bytes = 4096,
                                  .started_unix_seconds = 1,
                                  .ended_unix_seconds = 2,
                                  .error = "why"};
  ASSERT_TRUE(store_
                  ->Apply({.delete_devices = {},
                           .put_devices = {Device("d"), Device("s")},
                           .put_snapshots = {snapshot},
                           .put_made_files = {"/stores/s", "/stores/t", "/stores/s"},
                           .use_made_files = {},
                           .retire_made_files = {},
                           .delete_made_files = {"/stores/t"},
                           .put_operations = {operation},
                           .delete_operations = {}})
                  .ok());
  Open();
  EXPECT_THAT(Load().snapshots, ::testing::ElementsAre(snapshot));
  EXPECT_THAT(Load().made_files, ::testing::ElementsAre(MadeFileRecord{"/stores/s", false}));
  EXPECT_THAT(Load().operations, ::testing::ElementsAre(operation));
  ASSERT_TRUE(store_->DeleteDevice("id-s").ok());
  EXPECT_THAT(Load().snapshots, IsEmpty());
}

TEST_F(SqliteStoreTest, ChangesAreAllMadeOrNone) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  Changes changes;
  changes.delete_devices = {"id-d"};
  changes.put_devices = {Device("e")};
  changes.put_snapshots = {{.device_identity = "id-nobody", .origin_identity = "", .store = ""}};
  EXPECT_EQ(store_->Apply(changes).code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Load().devices, ::testing::ElementsAre(Device("d")));
  changes.put_snapshots.clear();
  ASSERT_TRUE(store_->Apply(changes).ok());
  EXPECT_THAT(Load().devices, ::testing::ElementsAre(Device("e")));
}

TEST_F(SqliteStoreTest, ADeviceMayTakeTheNameOfOneThatGoesInTheSameChange) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  DeviceRecord heir = Device("d");
  heir.identity = "id-heir";
  Changes changes;
  changes.delete_devices = {"id-d"};
  changes.put_devices = {heir};
  EXPECT_TRUE(store_->Apply(changes).ok());
  EXPECT_THAT(Load().devices, ::testing::ElementsAre(heir));
}

TEST_F(SqliteStoreTest, ADatabaseOfTheFirstVersionIsReadAndBroughtUp) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  store_.reset();
  RunSql(
      "DROP TABLE snapshot; DROP TABLE made_file; DROP TABLE operation; DROP TABLE unit;"
      "DROP TABLE target_note;"
      "UPDATE schema_version SET version = 1");
  Open();
  EXPECT_THAT(Load().devices, SizeIs(1));
  EXPECT_TRUE(store_
                  ->Apply({.delete_devices = {},
                           .put_devices = {},
                           .put_snapshots = {},
                           .put_made_files = {"/x"},
                           .use_made_files = {},
                           .retire_made_files = {},
                           .delete_made_files = {},
                           .put_operations = {},
                           .delete_operations = {}})
                  .ok());
}

TEST_F(SqliteStoreTest, ADatabaseOfTheSecondVersionKeepsItsOperations) {
  Changes changes;
  changes.put_operations = {
      {.id = 7, .kind = "move", .device = "d", .state = "running", .plan = "p"}};
  ASSERT_TRUE(store_->Apply(changes).ok());
  store_.reset();
  RunSql(
      "ALTER TABLE operation DROP COLUMN cancelled; DROP TABLE unit; DROP TABLE target_note;"
      "ALTER TABLE made_file DROP COLUMN in_table;"
      "UPDATE schema_version SET version = 2");
  Open();
  EXPECT_THAT(Load().operations, ::testing::ElementsAre(changes.put_operations[0]));
}

TEST_F(SqliteStoreTest, ADatabaseOfTheThirdVersionKeepsItsExportsAndKnowsNoBlockSize) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  ASSERT_TRUE(store_->PutExport(Target("t"), ExportOf("t", 0, "d")).ok());
  store_.reset();
  RunSql(
      "DROP TABLE unit; DROP TABLE target_note; ALTER TABLE made_file DROP COLUMN in_table;"
      "UPDATE schema_version SET version = 3");
  Open();
  EXPECT_THAT(Load().exports, SizeIs(1));
  EXPECT_EQ(store_->BlockBytes("id-d").value(), 0u);
  ASSERT_TRUE(store_->PutBlockBytes("id-d", 4096).ok());
  EXPECT_EQ(store_->BlockBytes("id-d").value(), 4096u);
}

TEST_F(SqliteStoreTest, AFileOfTheFourthVersionCountsAsInATable) {
  store_.reset();
  RunSql(
      "ALTER TABLE made_file DROP COLUMN in_table; INSERT INTO made_file VALUES ('/s');"
      "DROP TABLE target_note;"
      "UPDATE schema_version SET version = 4");
  Open();
  EXPECT_THAT(Load().made_files, ::testing::ElementsAre(MadeFileRecord{"/s", true}));
}

TEST_F(SqliteStoreTest, ADatabaseOfTheFifthVersionHasNoNotes) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  store_.reset();
  RunSql("DROP TABLE target_note; UPDATE schema_version SET version = 5");
  Open();
  EXPECT_THAT(Load().devices, SizeIs(1));
  EXPECT_THAT(Load().notes, IsEmpty());
}

TEST_F(SqliteStoreTest, AMadeFileIsUnusedUntilATableHasItAndWhenNoneHasItAnyMore) {
  Changes made;
  made.put_made_files = {"/a", "/b"};
  ASSERT_TRUE(store_->Apply(made).ok());
  EXPECT_THAT(store_->UnusedFiles().value(), ::testing::ElementsAre("/a", "/b"));
  Changes used;
  used.use_made_files = {"/a", "/b", "/a user's"};
  ASSERT_TRUE(store_->Apply(used).ok());
  EXPECT_THAT(store_->UnusedFiles().value(), IsEmpty());
  EXPECT_THAT(Load().made_files, SizeIs(2));
  Changes retired;
  retired.retire_made_files = {"/b", "/a user's"};
  ASSERT_TRUE(store_->Apply(retired).ok());
  Open();
  EXPECT_THAT(store_->UnusedFiles().value(), ::testing::ElementsAre("/b"));
  // Made anew, as the one before was deleted by hand.
  ASSERT_TRUE(store_->Apply(made).ok());
  EXPECT_THAT(store_->UnusedFiles().value(), ::testing::ElementsAre("/a", "/b"));
}

TEST_F(SqliteStoreTest, ABlockSizeGoesWithItsDeviceAndNotWithItsExport) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  ASSERT_TRUE(store_->PutExport(Target("t"), ExportOf("t", 0, "d")).ok());
  ASSERT_TRUE(store_->PutBlockBytes("id-d", 512).ok());
  const std::vector<ExportKey> keys{{"t", 0}};
  ASSERT_TRUE(store_->DeleteExports(keys).ok());
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  Open();
  EXPECT_EQ(store_->BlockBytes("id-d").value(), 512u);
  ASSERT_TRUE(store_->DeleteDevice("id-d").ok());
  EXPECT_EQ(store_->BlockBytes("id-d").value(), 0u);
  EXPECT_EQ(store_->PutBlockBytes("id-d", 512).code(), absl::StatusCode::kNotFound);
}

// A record that was made a moment before, with a new plan, must not take it back.
TEST_F(SqliteStoreTest, AnOperationThatIsCancelledStaysSo) {
  Changes changes;
  changes.put_operations = {
      {.id = 7, .kind = "move", .device = "d", .state = "running", .plan = "p"}};
  const OperationRecord before = changes.put_operations[0];
  changes.put_operations[0].cancelled = true;
  ASSERT_TRUE(store_->Apply(changes).ok());
  EXPECT_TRUE(Load().operations.at(0).cancelled);
  changes.put_operations[0] = before;
  ASSERT_TRUE(store_->Apply(changes).ok());
  EXPECT_TRUE(Load().operations.at(0).cancelled);
}

TEST_F(SqliteStoreTest, DeletingTheLastExportTakesTheTarget) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  ASSERT_TRUE(store_->PutExport(Target("t"), ExportOf("t", 0, "d")).ok());
  ASSERT_TRUE(store_->PutExport(Target("t"), ExportOf("t", 1, "d")).ok());
  const std::vector<ExportKey> first{{"t", 0}};
  ASSERT_TRUE(store_->DeleteExports(first).ok());
  EXPECT_THAT(Load().targets, SizeIs(1));
  const std::vector<ExportKey> second{{"t", 1}};
  ASSERT_TRUE(store_->DeleteExports(second).ok());
  EXPECT_THAT(Load().targets, IsEmpty());
}

TEST_F(SqliteStoreTest, RefusesAnExportOfAnUnknownDeviceAndLeavesNoTargetBehind) {
  const absl::Status status = store_->PutExport(Target("t"), ExportOf("t", 0, "nobody"));
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(Load().targets, IsEmpty());
}

TEST_F(SqliteStoreTest, RefusesTheNameOrTheUuidOfAnotherDevice) {
  DeviceRecord first = Device("d");
  first.uuid = "u";
  ASSERT_TRUE(store_->PutDevice(first).ok());
  DeviceRecord same_name = Device("d");
  same_name.identity = "else";
  EXPECT_EQ(store_->PutDevice(same_name).code(), absl::StatusCode::kAlreadyExists);
  DeviceRecord same_uuid = Device("e");
  same_uuid.uuid = "u";
  EXPECT_EQ(store_->PutDevice(same_uuid).code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(SqliteStoreTest, AnEmptyReservationDeletes) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  const std::string bytes("a\0b", 3);
  ASSERT_TRUE(store_->PutReservation("id-d", bytes).ok());
  EXPECT_EQ(store_->Reservation("id-d").value(), bytes);
  ASSERT_TRUE(store_->PutReservation("id-d", "").ok());
  EXPECT_EQ(store_->Reservation("id-d").value(), "");
}

TEST_F(SqliteStoreTest, FilesAreForTheOwnerOnly) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  EXPECT_EQ(ModeOf(directory()), 0700u);
  for (const char* file : {"sectormap.db", "sectormap.db-wal", "sectormap.db-shm", kLockFileName}) {
    EXPECT_EQ(ModeOf(directory() + "/" + file), 0600u) << file;
  }
}

// As `sqlite3 .backup` makes it.
TEST_F(SqliteStoreTest, ADatabaseThatWasPutBackIsForTheOwnerOnly) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  store_.reset();
  ASSERT_EQ(chmod(database().c_str(), 0644), 0);
  Open();
  ASSERT_TRUE(store_->PutDevice(Device("e")).ok());
  for (const char* file : {"sectormap.db", "sectormap.db-wal", "sectormap.db-shm"}) {
    EXPECT_EQ(ModeOf(directory() + "/" + file), 0600u) << file;
  }
}

// A start on a full disk finds no room to make them.
TEST_F(SqliteStoreTest, AnEndLeavesTheIndexOfTheLogAndAnEmptyLog) {
  ASSERT_TRUE(store_->PutDevice(Device("a")).ok());
  store_.reset();
  EXPECT_EQ(std::filesystem::file_size(database() + "-wal"), 0u);
  EXPECT_GT(std::filesystem::file_size(database() + "-shm"), 0u);
}

TEST_F(SqliteStoreTest, SecondOpenerIsToldWhoHoldsTheDirectory) {
  auto second = OpenSqliteStore(directory());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr("process " + std::to_string(getpid())), HasSubstr(kLockFileName),
                    HasSubstr("--state-dir")));
}

TEST_F(SqliteStoreTest, ADirectoryWhosePidFileWasDeletedIsStillHeld) {
  ASSERT_TRUE(std::filesystem::remove(directory() + "/" + kLockFileName));
  EXPECT_EQ(OpenSqliteStore(directory()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(std::filesystem::exists(directory() + "/" + kLockFileName));
  Open();
}

// Those that were made by earlier versions.
TEST_F(SqliteStoreTest, DatabaseOfAnotherPageSizeIsUsedAsItIs) {
  const auto page_bytes = [this] {
    std::ifstream file(database(), std::ios::binary);
    char header[18] = {};  // SQLite's file format, 1.3: bytes 16 and 17
    file.read(header, sizeof(header));
    return static_cast<unsigned char>(header[16]) << 8 | static_cast<unsigned char>(header[17]);
  };
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  store_.reset();
  EXPECT_EQ(page_bytes(), 16 * 1024);
  RunSql("PRAGMA journal_mode=DELETE; PRAGMA page_size=4096; VACUUM");
  Open();
  EXPECT_EQ(page_bytes(), 4096);
  EXPECT_THAT(Load().devices, ::testing::ElementsAre(Device("d")));
  EXPECT_TRUE(store_->PutDevice(Device("e")).ok());
}

TEST_F(SqliteStoreTest, FullStoreRefusesWithAdviceAndLosesNothing) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  Open({.bytes_max = 256 * 1024});
  DeviceRecord large = Device("d");
  large.live_table = std::string(1024 * 1024, 'x');
  const absl::Status status = store_->PutDevice(large);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("free space"));
  EXPECT_THAT(Load().devices, ::testing::ElementsAre(Device("d")));
  EXPECT_TRUE(store_->PutDevice(Device("e")).ok());
}

// EFBIG stands for every way in which the file system refuses to let a file grow.
TEST_F(SqliteStoreTest, FileThatCannotGrowIsResourceExhausted) {
  store_.reset();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    auto store = OpenSqliteStore(directory());
    if (!store.ok() || !(*store)->PutDevice(Device("d")).ok()) _exit(1);
    const rlimit limit{1024 * 1024, RLIM_INFINITY};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
    DeviceRecord large = Device("e");
    // The smaller one fits into SQLite's cache and fails in the commit, the larger one before.
    for (const double megabytes : {1.5, 4.0}) {
      large.live_table = std::string(static_cast<size_t>(megabytes * 1024 * 1024), 'x');
      if ((*store)->PutDevice(large).code() != absl::StatusCode::kResourceExhausted) _exit(3);
    }
    auto contents = (*store)->LoadAll();
    _exit(contents.ok() && contents->devices.size() == 1 ? 0 : 4);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(SqliteStoreTest, RefusesADatabaseOfANewerVersion) {
  store_.reset();
  RunSql("UPDATE schema_version SET version = 1000");
  auto opened = OpenSqliteStore(directory());
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("newer Sectormap"));
}

TEST_F(SqliteStoreTest, RefusesADatabaseOfSomebodyElse) {
  store_.reset();
  const std::string whole = scratch_.path().string() + "/whole.db";
  std::filesystem::copy_file(database(), whole);
  for (const char* sql : {
           "DROP TABLE schema_version",
           "DELETE FROM schema_version",
           "INSERT INTO schema_version VALUES (1)",
           "UPDATE schema_version SET version = -3",
           "UPDATE schema_version SET version = 0",
           "ALTER TABLE schema_version RENAME COLUMN version TO number",
           "DROP TABLE schema_version; CREATE TABLE schema_version (version);"
           "INSERT INTO schema_version VALUES ('one')",
           "DROP TABLE operation",
           "DROP TABLE operation; UPDATE schema_version SET version = 2",
       }) {
    std::filesystem::copy_file(whole, database(),
                               std::filesystem::copy_options::overwrite_existing);
    RunSql(sql);
    auto opened = OpenSqliteStore(directory());
    EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition) << sql;
    EXPECT_THAT(std::string(opened.status().message()),
                AllOf(HasSubstr("not Sectormap's, or damaged"), HasSubstr("backup")))
        << sql;
  }
}

TEST_F(SqliteStoreTest, RefusesADamagedDatabase) {
  store_.reset();
  std::ofstream(database(), std::ios::trunc) << std::string(8192, 'x');
  auto opened = OpenSqliteStore(directory());
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kDataLoss) << opened.status();
  EXPECT_THAT(std::string(opened.status().message()),
              AllOf(HasSubstr("backup"), HasSubstr("-wal")));
}

// All that was put is in the log until SQLite's first checkpoint.
TEST_F(SqliteStoreTest, ALogWithoutItsDatabaseIsRefusedAndStays) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  const std::string copy = scratch_.path().string() + "/copy";
  std::filesystem::copy(directory(), copy);
  for (const bool missing : {false, true}) {
    std::filesystem::resize_file(copy + "/sectormap.db", 0);
    if (missing) std::filesystem::remove(copy + "/sectormap.db");
    auto opened = OpenSqliteStore(copy);
    EXPECT_EQ(opened.status().code(), absl::StatusCode::kDataLoss) << opened.status();
    EXPECT_THAT(std::string(opened.status().message()),
                AllOf(HasSubstr("sectormap.db-wal, is not"), HasSubstr("backup")));
    EXPECT_EQ(std::filesystem::exists(copy + "/sectormap.db"), !missing);
    std::filesystem::copy_file(database(), copy + "/sectormap.db",
                               std::filesystem::copy_options::overwrite_existing);
  }
  auto opened = OpenSqliteStore(copy);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_THAT((*opened)->LoadAll()->devices, SizeIs(1));
}

// Its pages are readable, what they hold is not what they say.
TEST_F(SqliteStoreTest, RefusesADatabaseWhosePagesAreWrong) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  store_.reset();
  std::fstream file(database(), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(2 * 16 * 1024 - 64).write(std::string(64, '\xff').data(), 64);
  file.close();
  auto opened = OpenSqliteStore(directory());
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kDataLoss) << opened.status();
  EXPECT_THAT(std::string(opened.status().message()),
              AllOf(HasSubstr("is damaged"), HasSubstr("backup"), HasSubstr("-wal")));
}

TEST_F(SqliteStoreTest, SaysWhatToDoWhenTheDirectoryIsAFile) {
  const std::string path = scratch_.path().string() + "/file";
  std::ofstream(path) << "x";
  auto opened = OpenSqliteStore(path);
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("--state-dir"));
}

// As systemd's DynamicUser= and StateDirectory= leave it: /var/lib/sectormap leads to
// private/sectormap.
TEST_F(SqliteStoreTest, TheDirectoryMayBeReachedThroughALink) {
  ASSERT_TRUE(store_->PutDevice(Device("d")).ok());
  store_.reset();
  const std::string link = scratch_.path().string() + "/link";
  ASSERT_EQ(symlink((scratch_.path().string() + "/a").c_str(), link.c_str()), 0);
  auto opened = OpenSqliteStore(link + "/state");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_THAT((*opened)->LoadAll()->devices, SizeIs(1));
}

TEST_F(SqliteStoreTest, ADatabaseThatIsItselfALinkIsRefusedAsSuch) {
  store_.reset();
  const std::string elsewhere = scratch_.path().string() + "/elsewhere.db";
  ASSERT_EQ(rename(database().c_str(), elsewhere.c_str()), 0);
  ASSERT_EQ(symlink(elsewhere.c_str(), database().c_str()), 0);
  auto opened = OpenSqliteStore(directory());
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kPermissionDenied) << opened.status();
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("must not be a link itself"));
}

TEST_F(SqliteStoreTest, SaysWhatToDoWhenTheDirectoryIsClosedToUs) {
  const std::string parent = scratch_.path().string() + "/closed";
  const std::string inside = parent + "/state";
  const std::string read_only = scratch_.path().string() + "/whole";
  ASSERT_EQ(mkdir(parent.c_str(), 0500), 0);
  store_.reset();
  std::filesystem::copy(directory(), read_only);
  ASSERT_EQ(chmod(read_only.c_str(), 0500), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Root may write anywhere.
    if (getuid() == 0) {
      for (const auto& file : std::filesystem::directory_iterator(read_only)) {
        if (chown(file.path().c_str(), 65534, 65534) != 0) _exit(9);
      }
      for (const std::string& path : {parent, read_only, scratch_.path().string()}) {
        if (chown(path.c_str(), 65534, 65534) != 0) _exit(9);
      }
      if (setuid(65534) != 0) _exit(9);
    }
    for (const std::string& path : {inside, read_only}) {
      auto opened = OpenSqliteStore(path);
      if (opened.status().code() != absl::StatusCode::kPermissionDenied) _exit(1);
      if (!absl::StrContains(std::string(opened.status().message()), "--state-dir")) _exit(2);
    }
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(chmod(read_only.c_str(), 0700), 0);  // so that it can be removed
}

}  // namespace
}  // namespace sectormap::state
