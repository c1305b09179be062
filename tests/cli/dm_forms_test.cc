// SPDX-License-Identifier: Apache-2.0
// What dmsetup prints for the same state (recorded from Debian 12's dmsetup 1.02.185 and
// kernel 6.1), but for kernel device numbers, which do not exist here.
#include "cli/dm_forms.h"
#include "tests/cli/fake_daemon.h"

namespace sectormap::cli {
namespace {

FakeDeviceMapper::Entry& AddLinear(FakeDeviceMapper& devices, const std::string& name) {
  FakeDeviceMapper::Entry& entry = devices.Add(name);
  entry.device.set_has_live_table(true);
  entry.device.set_target_count(2);
  entry.device.set_size_sectors(12288);
  entry.table = "0 8192 linear /srv/a 0\n8192 4096 linear /srv/b 100\n";
  entry.status = "0 8192 linear \n8192 4096 linear \n";
  entry.dependencies = {Backing("/srv/b"), Backing("/srv/a")};
  return entry;
}

TEST_F(CliTest, InfoShowsDmsetupsBlock) {
  AddLinear(devices, "x");
  EXPECT_EQ(RunCli({"info", "x"}).out,
            "Name:              x\n"
            "State:             ACTIVE\n"
            "Read Ahead:        0\n"
            "Tables present:    LIVE\n"
            "Open count:        0\n"
            "Event number:      0\n"
            "Number of targets: 2\n"
            "\n");
}

TEST_F(CliTest, InfoShowsUuidReadOnlyAndBothTables) {
  v1::Device& device = AddLinear(devices, "x").device;
  device.set_uuid("TEST-1234");
  device.set_read_only(true);
  device.set_has_inactive_table(true);
  device.set_open_count(3);
  device.set_event_number(7);
  EXPECT_EQ(RunCli({"info", "x"}).out,
            "Name:              x\n"
            "State:             ACTIVE (READ-ONLY)\n"
            "Read Ahead:        0\n"
            "Tables present:    LIVE & INACTIVE\n"
            "Open count:        3\n"
            "Event number:      7\n"
            "Number of targets: 2\n"
            "UUID: TEST-1234\n"
            "\n");
}

TEST_F(CliTest, InfoShowsADeviceWithoutTables) {
  devices.Add("x");
  EXPECT_EQ(RunCli({"info", "x"}).out,
            "Name:              x\n"
            "State:             ACTIVE\n"
            "Tables present:    None\n"
            "Open count:        0\n"
            "Event number:      0\n"
            "Number of targets: 0\n"
            "\n");
}

TEST_F(CliTest, InfoShowsSuspendedDeferredRemovalAndWhyADeviceIsBroken) {
  v1::Device& device = AddLinear(devices, "x").device;
  device.set_suspended(true);
  device.set_deferred_remove(true);
  device.set_error("line 1: linear: /srv/a: No such file or directory");
  const std::string out = RunCli({"info", "x"}).out;
  EXPECT_NE(out.find("State:             SUSPENDED (DEFERRED REMOVE)\n"), std::string::npos);
  EXPECT_NE(out.find("Error:             line 1: linear: /srv/a: No such file or directory\n"),
            std::string::npos);
}

TEST_F(CliTest, InfoColumnsAreDmsetupsWithoutMajorAndMinor) {
  AddLinear(devices, "x");
  EXPECT_EQ(RunCli({"info", "-c"}).out,
            "Name             Stat Open Targ Event  UUID                            \n"
            "x                L--w    0    2      0                                 \n");
}

TEST_F(CliTest, InfoColumnsGrowWithTheirContents) {
  v1::Device& device = AddLinear(devices, "a-name-longer-than-sixteen").device;
  device.set_suspended(true);
  device.set_has_inactive_table(true);
  device.set_read_only(true);
  EXPECT_EQ(RunCli({"info", "-c", "--fields", "name,attr,open"}).out,
            "Name                       Stat Open\n"
            "a-name-longer-than-sixteen LIsr    0\n");
}

TEST_F(CliTest, ColumnsCountCharactersAndNotTheirBytes) {
  EXPECT_EQ(Columns({{"NAME", "SIZE"}, {"ÿñé", "1"}, {"vol", "2"}}),
            "NAME  SIZE\n"
            "ÿñé   1\n"
            "vol   2\n");
  devices.Add("ÿñé");
  devices.Add("vol");
  EXPECT_EQ(RunCli({"info", "-c", "--fields", "name,open", "--noheadings"}).out,
            "vol                 0\n"
            "ÿñé                 0\n");
}

TEST_F(CliTest, InfoColumnsCanBeForScripts) {
  AddLinear(devices, "x").device.set_uuid("U");
  EXPECT_EQ(
      RunCli({"info", "-c", "--noheadings", "--separator", ":", "--fields", "name,uuid,size"}).out,
      "x:U:12288\n");
}

TEST_F(CliTest, InfoRefusesAnUnknownField) {
  AddLinear(devices, "x");
  const Outcome outcome = RunCli({"info", "-c", "--fields", "name,major"});
  EXPECT_EQ(outcome.code, ExitCode::kUsage);
  EXPECT_NE(outcome.err.find("there is no field `major`; the fields are name, attr"),
            std::string::npos);
}

TEST_F(CliTest, LsNamesEachDevice) {
  devices.Add("x");
  devices.Add("y");
  EXPECT_EQ(RunCli({"ls"}).out, "x\t(x)\ny\t(y)\n");
}

TEST_F(CliTest, LsTreeShowsWhatADeviceIsMadeOf) {
  AddLinear(devices, "x");
  EXPECT_EQ(RunCli({"ls", "--tree"}).out,
            "x\n"
            " |- (/srv/b)\n"
            " `- (/srv/a)\n");
}

TEST_F(CliTest, LsTreeShowsStacksBelowTheDeviceThatUsesThem) {
  AddLinear(devices, "low");
  devices.Add("o").dependencies = {Backing("/srv/c")};
  devices.Add("s").dependencies = {Mapped("/dev/mapper/low"), Backing("/srv/cow"), Mapped("low")};
  EXPECT_EQ(RunCli({"ls", "--tree"}).out,
            "o\n"
            " `- (/srv/c)\n"
            "s\n"
            " |-low\n"
            " |  |- (/srv/b)\n"
            " |  `- (/srv/a)\n"
            " |- (/srv/cow)\n"
            " `-low\n"
            "    |- (/srv/b)\n"
            "    `- (/srv/a)\n");
}

TEST_F(CliTest, DepsCountsAndNames) {
  AddLinear(devices, "x");
  EXPECT_EQ(RunCli({"deps", "x"}).out, "2 dependencies\t: (/srv/b) (/srv/a)\n");
}

TEST_F(CliTest, DepsOfAllDevicesNamesEach) {
  AddLinear(devices, "x");
  devices.Add("y");
  EXPECT_EQ(RunCli({"deps"}).out, "x: 2 dependencies\t: (/srv/b) (/srv/a)\ny: 0 dependencies\t:\n");
}

TEST_F(CliTest, TableOfOneDeviceIsBare) {
  AddLinear(devices, "x");
  EXPECT_EQ(RunCli({"table", "x"}).out, "0 8192 linear /srv/a 0\n8192 4096 linear /srv/b 100\n");
}

TEST_F(CliTest, TableOfAllDevicesNamesEachLine) {
  AddLinear(devices, "x");
  devices.Add("y");
  EXPECT_EQ(RunCli({"table"}).out,
            "x: 0 8192 linear /srv/a 0\nx: 8192 4096 linear /srv/b 100\ny: \n");
}

TEST_F(CliTest, TableOfADeviceWithoutOneIsAnEmptyLine) {
  devices.Add("x");
  EXPECT_EQ(RunCli({"table", "x"}).out, "\n");
}

TEST_F(CliTest, TableShowsTheInactiveOneWhenAsked) {
  AddLinear(devices, "x").inactive_table = "0 8192 linear /srv/a 8\n";
  EXPECT_EQ(RunCli({"table", "--inactive", "x"}).out, "0 8192 linear /srv/a 8\n");
}

TEST_F(CliTest, StatusOfAllDevicesSaysWhichHaveNone) {
  AddLinear(devices, "x");
  devices.Add("y").device.set_error("cannot open '/srv/b'");
  const auto all = RunCli({"status"});
  EXPECT_EQ(all.code, ExitCode::kOk);
  EXPECT_EQ(all.out, "x: 0 8192 linear \nx: 8192 4096 linear \ny: Error: cannot open '/srv/b'\n");
  const auto error = std::string("{\"name\":\"y\",\"error\":\"cannot open '/srv/b'\"}");
  EXPECT_NE(RunCli({"-o", "json", "status"}).out.find(error), std::string::npos);
  EXPECT_EQ(RunCli({"table"}).code, ExitCode::kOk);
  EXPECT_EQ(RunCli({"status", "y"}).code, ExitCode::kConflict);
}

TEST_F(CliTest, StatusKeepsTheTrailingBlank) {
  AddLinear(devices, "x");
  EXPECT_EQ(RunCli({"status", "x"}).out, "0 8192 linear \n8192 4096 linear \n");
}

TEST_F(CliTest, StatusShowsRowsOfOneTargetTypeWhenAsked) {
  AddLinear(devices, "x").status = "0 8 linear \n8 8 error \n16 8 linear \n";
  EXPECT_EQ(RunCli({"status", "--target", "error"}).out, "x: 8 8 error \n");
}

TEST_F(CliTest, TargetsShowVersions) {
  v1::TargetType* type = devices.types.add_types();
  type->set_name("linear");
  type->set_version("1.4.0");
  EXPECT_EQ(RunCli({"targets"}).out, "linear           v1.4.0\n");
}

TEST_F(CliTest, NothingThereIsSaidSo) {
  for (const char* verb : {"ls", "info", "table", "status", "deps"}) {
    EXPECT_EQ(RunCli({verb}).out, "No devices found\n") << verb;
  }
  EXPECT_EQ(RunCli({"ls", "--tree"}).out, "No devices found\n");
  EXPECT_EQ(RunCli({"info", "-c"}).out, "No devices found\n");
}

TEST_F(CliTest, StatsListDeviceAndBackings) {
  devices.stats.mutable_device()->set_device("x");
  v1::IoStats::PerOperation* read = devices.stats.mutable_device()->add_operations();
  read->set_operation("read");
  read->set_requests(12);
  read->set_bytes(49152);
  v1::IoStats* backing = devices.stats.add_backings();
  backing->set_device("/srv/a");
  backing->add_operations()->set_operation("write");
  EXPECT_EQ(RunCli({"stats", "x"}).out,
            "DEVICE  OPERATION  REQUESTS  BYTES  ERRORS\n"
            "x       read       12        49152  0\n"
            "/srv/a  write      0         0      0\n");
}

TEST_F(CliTest, ExportsListWhoMaySeeWhat) {
  v1::Export* entry = iscsi.exports.add_exports();
  entry->set_device("vol");
  entry->set_iqn("iqn.2026-11.io.sectormap:vol");
  entry->set_read_only(true);
  entry->set_chap_user("backup");
  entry->add_allowed_initiators("iqn.1993-08.org.debian:01:a");
  entry->set_size_sectors(2097152);
  entry->set_session_count(1);
  EXPECT_EQ(RunCli({"exports"}).out,
            "DEVICE  TARGET                        LUN  MODE  SIZE   SESSIONS  ACCESS\n"
            "vol     iqn.2026-11.io.sectormap:vol  0    ro    1 GiB  1         "
            "chap backup, only iqn.1993-08.org.debian:01:a\n");
}

TEST_F(CliTest, SessionsListWhoIsLoggedIn) {
  v1::Session* session = iscsi.sessions.add_sessions();
  session->set_id(3);
  session->set_initiator_name("iqn.1993-08.org.debian:01:a");
  session->set_peer_address("127.0.0.1:5000");
  session->set_local_address("127.0.0.1:3260");
  session->set_header_digest(true);
  session->set_login_unix_seconds(1000000000);
  EXPECT_EQ(RunCli({"sessions"}).out,
            "ID  INITIATOR                    TARGET       FROM            PORTAL          SINCE"
            "                 DIGESTS  REACTOR\n"
            "3   iqn.1993-08.org.debian:01:a  (discovery)  127.0.0.1:5000  127.0.0.1:3260  "
            "2001-09-09T01:46:40Z  header   0\n");
}

}  // namespace
}  // namespace sectormap::cli
