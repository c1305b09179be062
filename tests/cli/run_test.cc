// SPDX-License-Identifier: Apache-2.0
// What the command sends, how it ends, and what it says when it cannot.
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/rpc/status.pb.h"
#include "sectormap/v1/errors.pb.h"
#include "tests/cli/fake_daemon.h"

namespace sectormap::cli {
namespace {

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// REQUIRES: `text` is JSON; the test fails otherwise.
google::protobuf::Value ParseJson(const std::string& text) {
  google::protobuf::Value value;
  const auto status = google::protobuf::util::JsonStringToMessage(text, &value);
  EXPECT_TRUE(status.ok()) << status.ToString() << "\n" << text;
  return value;
}

void WriteFile(const std::string& path, const std::string& text, mode_t mode = 0600) {
  std::ofstream(path) << text;
  chmod(path.c_str(), mode);
}

grpc::Status RefusedTable(uint32_t line, const std::string& type, const std::string& reason,
                          const std::string& sentence = "the table was refused") {
  v1::TableViolation violation;
  violation.set_line(line);
  violation.set_target_type(type);
  violation.set_reason(reason);
  google::rpc::Status details;
  details.set_code(static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  details.add_details()->PackFrom(violation);
  return {grpc::StatusCode::INVALID_ARGUMENT, sentence, details.SerializeAsString()};
}

// --- Where tables come from ---

TEST_F(CliTest, CreateTakesTheTableFromTheCommandLine) {
  const Outcome outcome =
      RunCli({"create", "x", "--table", "0 8 zero", "-u", "TEST-1", "--readonly"});
  EXPECT_EQ(outcome.code, ExitCode::kOk) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(devices.created.name(), "x");
  EXPECT_EQ(devices.created.table(), "0 8 zero");
  EXPECT_EQ(devices.created.uuid(), "TEST-1");
  EXPECT_TRUE(devices.created.read_only());
}

TEST_F(CliTest, CreateTakesTheTableFromStandardInputThatIsNoTerminal) {
  input = "0 8 zero\n";
  input_is_terminal = false;
  EXPECT_EQ(RunCli({"create", "x"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.created.table(), "0 8 zero\n");
}

TEST_F(CliTest, CreateTakesTheTableFromAFileAsDmsetupDoes) {
  WriteFile(scratch / "t", "0 16 zero\n");
  EXPECT_EQ(RunCli({"create", "x", scratch / "t"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.created.table(), "0 16 zero\n");
  EXPECT_EQ(RunCli({"create", "y", "--table-file", scratch / "t"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.created.name(), "y");
}

TEST_F(CliTest, CreateTakesADashForStandardInput) {
  input = "0 24 zero\n";
  EXPECT_EQ(RunCli({"create", "x", "-"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.created.table(), "0 24 zero\n");
}

TEST_F(CliTest, CreateWithoutATableSendsNone) {
  EXPECT_EQ(RunCli({"create", "x", "--notable"}).code, ExitCode::kOk);
  EXPECT_FALSE(devices.created.has_table());
}

TEST_F(CliTest, CreateOnATerminalSaysHowToGiveATable) {
  const Outcome outcome = RunCli({"create", "x"});
  EXPECT_EQ(outcome.code, ExitCode::kUsage);
  EXPECT_TRUE(Contains(outcome.err, "no table")) << outcome.err;
  EXPECT_TRUE(Contains(outcome.err, "--table-file")) << outcome.err;
}

TEST_F(CliTest, CreateFromEmptyStandardInputIsWrongUsage) {
  input_is_terminal = false;
  const Outcome outcome = RunCli({"create", "x"});
  EXPECT_EQ(outcome.code, ExitCode::kUsage);
  EXPECT_TRUE(Contains(outcome.err, "standard input is empty")) << outcome.err;
}

TEST_F(CliTest, AMissingTableFileIsNamed) {
  const Outcome outcome = RunCli({"load", "x", "--table-file", scratch / "none"});
  EXPECT_EQ(outcome.code, ExitCode::kError);
  EXPECT_TRUE(Contains(outcome.err, scratch / "none: No such file")) << outcome.err;
}

TEST_F(CliTest, ATableFileThatIsNoTableIsNamed) {
  // As a disk's image given by mistake: sparse, and larger than any memory.
  WriteFile(scratch / "vol.img", "");
  std::filesystem::resize_file(scratch / "vol.img", uintmax_t{10} << 40);
  Outcome outcome = RunCli({"create", "x", "--table-file", scratch / "vol.img"});
  EXPECT_EQ(outcome.code, ExitCode::kError);
  EXPECT_TRUE(Contains(outcome.err, "vol.img: longer than 128 MiB")) << outcome.err;
  outcome = RunCli({"create", "x", "--table-file", "/dev/zero"});
  EXPECT_EQ(outcome.code, ExitCode::kError);
  EXPECT_TRUE(Contains(outcome.err, "/dev/zero: longer than 128 MiB")) << outcome.err;
  outcome = RunCli({"create", "x", "--table-file", scratch.path().string()});
  EXPECT_EQ(outcome.code, ExitCode::kError);
  EXPECT_TRUE(Contains(outcome.err, scratch.path().string() + ": Is a directory")) << outcome.err;
}

// --- What is sent ---

TEST_F(CliTest, TextThatIsNoUtf8IsRefusedWithItsPlace) {
  testing::internal::CaptureStderr();
  Outcome outcome = RunCli({"create", "x", "--table", "0 8 linear /srv/\xff 0"});
  EXPECT_EQ(outcome.code, ExitCode::kError);
  EXPECT_EQ(outcome.err, "sectormap: create x: not UTF-8 text: table (byte 17)\n");
  outcome = RunCli({"-o", "json", "info", "\xff"});
  EXPECT_EQ(outcome.code, ExitCode::kError);
  const auto error = ParseJson(outcome.err).struct_value().fields().at("error").struct_value();
  EXPECT_EQ(error.fields().at("message").string_value(), "info ?: not UTF-8 text: name (byte 1)");
  WriteFile(scratch / "secret", "twelve-byte\xc3\n");
  outcome = RunCli({"export", "vol", "--chap-user", "u", "--chap-secret-file", scratch / "secret"});
  EXPECT_TRUE(Contains(outcome.err, "secret (byte 12)")) << outcome.err;
  outcome = RunCli({"export", "vol", "--allow", "iqn.a:1", "--allow", "iqn.a:\xff"});
  EXPECT_TRUE(Contains(outcome.err, "allowed_initiators (byte 7)")) << outcome.err;
  // protobuf complains there when it is given such a text.
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(RunCli({"create", "x", "--table", "0 8 linear /srv/\xc3\xa9 0"}).code, ExitCode::kOk);
}

TEST_F(CliTest, ANumberBelowZeroIsWrongUsage) {
  const std::vector<std::string> cases[] = {
      {"export", "x", "--lun", "-1"}, {"wait", "x", "-1"}, {"message", "x", "-1", "hello"}};
  for (const auto& words : cases) {
    const Outcome outcome = RunCli(words);
    EXPECT_EQ(outcome.code, ExitCode::kUsage) << testing::PrintToString(words);
    EXPECT_TRUE(Contains(outcome.err, ": -1 is below zero\n")) << outcome.err;
  }
}

TEST_F(CliTest, AnEmptyValueIsNotTheWordBehindIt) {
  Outcome outcome = RunCli({"create", "q", "--uuid=", "--readonly", "--table", "0 8 zero"});
  EXPECT_EQ(outcome.code, ExitCode::kOk) << outcome.err;
  EXPECT_EQ(devices.created.uuid(), "");
  EXPECT_TRUE(devices.created.read_only());
  outcome = RunCli({"export", "tiny", "--allow=", "--readonly"});
  EXPECT_EQ(outcome.code, ExitCode::kOk) << outcome.err;
  ASSERT_EQ(iscsi.exported.allowed_initiators_size(), 1);
  EXPECT_EQ(iscsi.exported.allowed_initiators(0), "");  // which the daemon refuses
  EXPECT_TRUE(iscsi.exported.read_only());
}

TEST_F(CliTest, AnEmptyNumberIsWrongUsage) {
  const std::vector<std::string> cases[] = {{"unexport", "x", "--lun="}, {"wait", "x", ""}};
  for (const auto& words : cases) {
    const Outcome outcome = RunCli(words);
    EXPECT_EQ(outcome.code, ExitCode::kUsage) << testing::PrintToString(words);
    EXPECT_TRUE(Contains(outcome.err, "give a number\n")) << outcome.err;
  }
}

TEST_F(CliTest, ReloadIsLoad) {
  devices.Add("x");
  EXPECT_EQ(RunCli({"reload", "x", "--table", "0 8 zero"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.loaded.table(), "0 8 zero");
}

TEST_F(CliTest, ADeviceMayHaveAVerbsName) {
  EXPECT_EQ(RunCli({"create", "ls", "--table", "0 8 zero"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.created.name(), "ls");
}

TEST_F(CliTest, SuspendPassesNoFlushOn) {
  devices.Add("x");
  EXPECT_EQ(RunCli({"suspend", "--noflush", "--nolockfs", "x"}).code, ExitCode::kOk);
  EXPECT_TRUE(devices.suspended.no_flush());
}

TEST_F(CliTest, VerboseShowsTheDeviceAfterTheChange) {
  devices.Add("x");
  EXPECT_TRUE(Contains(RunCli({"-v", "resume", "x"}).out, "Name:              x\n"));
}

TEST_F(CliTest, RemovePassesItsFlagsOn) {
  devices.Add("x");
  EXPECT_EQ(RunCli({"remove", "--force", "--deferred", "--missing-ok", "x"}).code, ExitCode::kOk);
  EXPECT_TRUE(devices.remove_asked.force());
  EXPECT_TRUE(devices.remove_asked.deferred());
  EXPECT_TRUE(devices.remove_asked.allow_missing());
}

TEST_F(CliTest, AVerbWithSeveralDevicesGoesOnAfterARefusal) {
  devices.Add("b");
  const Outcome outcome = RunCli({"remove", "a", "b"});
  EXPECT_EQ(outcome.code, ExitCode::kNotFound);
  EXPECT_EQ(devices.remove_asked.name(), "b");
  EXPECT_EQ(outcome.err, "sectormap: remove a: Device does not exist.\n");
}

TEST_F(CliTest, RenameGivesANameOrAUuid) {
  devices.Add("x");
  EXPECT_EQ(RunCli({"rename", "x", "y"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.renamed.new_name(), "y");
  EXPECT_EQ(RunCli({"rename", "x", "--setuuid", "U"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.renamed.new_uuid(), "U");
  EXPECT_EQ(RunCli({"rename", "x"}).code, ExitCode::kUsage);
  EXPECT_EQ(RunCli({"rename", "x", "y", "--setuuid", "U"}).code, ExitCode::kUsage);
}

TEST_F(CliTest, MessageJoinsItsWordsAndPrintsTheAnswer) {
  devices.message_answer = "done";
  EXPECT_EQ(RunCli({"message", "x", "16", "set", "rate", "5"}).out, "done\n");
  EXPECT_EQ(devices.messaged.sector(), 16u);
  EXPECT_EQ(devices.messaged.message(), "set rate 5");
}

TEST_F(CliTest, WaitPassesTheEventNumberOn) {
  devices.Add("x");
  EXPECT_EQ(RunCli({"wait", "x", "7"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.waited.event_number(), 7u);
  EXPECT_EQ(RunCli({"wait", "x"}).code, ExitCode::kOk);
  EXPECT_EQ(devices.waited.event_number(), 0u);
}

TEST_F(CliTest, ExportSendsAccessAndReadsSecretsFromFiles) {
  WriteFile(scratch / "in", "a-secret-of-15b\n");
  WriteFile(scratch / "back", "another-secret!");
  const Outcome outcome = RunCli(
      {"export", "vol", "--iqn", "iqn.2026-11.io.sectormap:t", "--lun", "5", "--readonly",
       "--chap-user", "u", "--chap-secret-file", scratch / "in", "--mutual-chap-user", "t",
       "--mutual-chap-secret-file", scratch / "back", "--allow", "iqn.a:1", "--allow", "iqn.a:2"});
  EXPECT_EQ(outcome.code, ExitCode::kOk) << outcome.err;
  EXPECT_EQ(outcome.out, "vol is LUN 5 of iqn.2026-11.io.sectormap:t\n");
  EXPECT_EQ(iscsi.exported.chap().user(), "u");
  EXPECT_EQ(iscsi.exported.chap().secret(), "a-secret-of-15b");
  EXPECT_EQ(iscsi.exported.mutual_chap().secret(), "another-secret!");
  EXPECT_EQ(iscsi.exported.allowed_initiators_size(), 2);
  EXPECT_TRUE(iscsi.exported.read_only());
}

TEST_F(CliTest, UnexportSendsALunOnlyIfOneIsGiven) {
  EXPECT_EQ(RunCli({"unexport", "vol", "--iqn", "iqn.a:1"}).code, ExitCode::kOk);
  EXPECT_EQ(iscsi.unexported.iqn(), "iqn.a:1");
  EXPECT_FALSE(iscsi.unexported.has_lun());
  EXPECT_EQ(RunCli({"unexport", "vol", "--lun", "0"}).code, ExitCode::kOk);
  EXPECT_TRUE(iscsi.unexported.has_lun());
  EXPECT_EQ(iscsi.unexported.lun(), 0u);
}

TEST_F(CliTest, ASecretFileThatEverybodyCanReadIsRefusedWithAdvice) {
  WriteFile(scratch / "s", "a-secret-of-15b\n", 0644);
  const Outcome outcome =
      RunCli({"export", "vol", "--chap-user", "u", "--chap-secret-file", scratch / "s"});
  EXPECT_EQ(outcome.code, ExitCode::kError);
  EXPECT_TRUE(Contains(outcome.err, "chmod 600 " + (scratch / "s"))) << outcome.err;
  EXPECT_FALSE(Contains(outcome.err, "a-secret-of-15b"));
  EXPECT_FALSE(iscsi.exported.has_chap());
}

TEST_F(CliTest, ASecretFileHoldsOneLineAndNotTooMuch) {
  WriteFile(scratch / "two", "one\ntwo\n");
  WriteFile(scratch / "empty", "\n");
  WriteFile(scratch / "long", std::string(5000, 'x'));
  for (const char* name : {"/two", "/empty", "/long", "/missing"}) {
    const Outcome outcome = RunCli({"export", "vol", "--chap-user", "u", "--chap-secret-file",
                                    scratch.path().string() + name});
    EXPECT_EQ(outcome.code, ExitCode::kError) << name;
    EXPECT_TRUE(Contains(outcome.err, scratch.path().string() + name)) << outcome.err;
  }
}

TEST_F(CliTest, ChapNeedsUserAndSecretAndMutualNeedsBoth) {
  EXPECT_EQ(RunCli({"export", "vol", "--chap-user", "u"}).code, ExitCode::kUsage);
  EXPECT_EQ(RunCli({"export", "vol", "--chap-secret-file", "f"}).code, ExitCode::kUsage);
  EXPECT_EQ(
      RunCli({"export", "vol", "--mutual-chap-user", "u", "--mutual-chap-secret-file", "f"}).code,
      ExitCode::kUsage);
}

// --- How it ends ---

TEST_F(CliTest, EachRefusalHasItsExitCode) {
  const std::pair<grpc::StatusCode, ExitCode> cases[] = {
      {grpc::StatusCode::NOT_FOUND, ExitCode::kNotFound},
      {grpc::StatusCode::ALREADY_EXISTS, ExitCode::kConflict},
      {grpc::StatusCode::FAILED_PRECONDITION, ExitCode::kConflict},
      {grpc::StatusCode::ABORTED, ExitCode::kConflict},
      {grpc::StatusCode::UNAVAILABLE, ExitCode::kError},
      {grpc::StatusCode::INVALID_ARGUMENT, ExitCode::kError},
      {grpc::StatusCode::PERMISSION_DENIED, ExitCode::kError},
      {grpc::StatusCode::INTERNAL, ExitCode::kError},
  };
  for (const auto& [code, exit_code] : cases) {
    google::rpc::Status details;
    details.set_code(static_cast<int>(code));
    devices.refusal = grpc::Status(code, "as the daemon says", details.SerializeAsString());
    const Outcome outcome = RunCli({"info", "x"});
    EXPECT_EQ(outcome.code, exit_code) << code;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.err, "sectormap: info x: as the daemon says\n");
  }
}

TEST_F(CliTest, UnavailableWithoutDetailsIsThatNobodyAnswered) {
  devices.refusal = grpc::Status(grpc::StatusCode::UNAVAILABLE, "Socket closed");
  const Outcome outcome = RunCli({"info", "x"});
  EXPECT_EQ(outcome.code, ExitCode::kUnreachable);
  EXPECT_TRUE(Contains(outcome.err, "cannot reach sectormapd")) << outcome.err;
}

TEST_F(CliTest, ARefusedTableShowsLineTypeReasonAndTheLineItself) {
  devices.refusal = RefusedTable(2, "linear", "Gap in table");
  const Outcome outcome =
      RunCli({"create", "x", "--table", "0 8 linear /srv/a 0\n16 8 linear /srv/a 8"});
  EXPECT_EQ(outcome.code, ExitCode::kError);
  EXPECT_EQ(outcome.err,
            "sectormap: create x: the table was refused\n"
            "  line 2: linear: Gap in table\n"
            "  > 16 8 linear /srv/a 8\n");
}

TEST_F(CliTest, ARefusedTableSaysNothingTwice) {
  devices.Add("x");
  devices.refusal =
      RefusedTable(1, "linear", "Gap in table", "line 1: linear: Gap in table; advice");
  EXPECT_EQ(RunCli({"load", "x", "--table", "8 8 linear /srv/a 0"}).err,
            "sectormap: load x: line 1: linear: Gap in table; advice\n"
            "  > 8 8 linear /srv/a 0\n");
  devices.refusal = RefusedTable(0, "", "empty table", "empty table; give a row");
  EXPECT_EQ(RunCli({"load", "x", "--table", "#"}).err,
            "sectormap: load x: empty table; give a row\n");
}

TEST_F(CliTest, ARefusedTableIsJsonWhenAsked) {
  devices.refusal = RefusedTable(2, "linear", "Gap in table");
  const Outcome outcome = RunCli({"-o", "json", "create", "x", "--table", "0 8 zero"});
  const auto error = ParseJson(outcome.err).struct_value().fields().at("error").struct_value();
  EXPECT_EQ(error.fields().at("code").string_value(), "INVALID_ARGUMENT");
  EXPECT_EQ(error.fields().at("exit_code").number_value(), 1);
  const auto violation = error.fields().at("table_violation").struct_value();
  EXPECT_EQ(violation.fields().at("line").number_value(), 2);
  EXPECT_EQ(violation.fields().at("reason").string_value(), "Gap in table");
}

TEST_F(CliTest, DetailsThatAreNoDetailsAreLeftOut) {
  devices.refusal = grpc::Status(grpc::StatusCode::INTERNAL, "broken", "\xff\xff\xff garbage");
  EXPECT_EQ(RunCli({"info", "x"}).err, "sectormap: info x: broken\n");
}

TEST_F(CliTest, WrongUsageEndsWithTwoAndPointsToHelp) {
  const std::vector<std::string> cases[] = {
      {},         {"frobnicate"},    {"info", "--nosuch"}, {"-o", "yaml", "ls"},
      {"resume"}, {"wait", "x", "y"}};
  for (const auto& words : cases) {
    const Outcome outcome = RunCli(words);
    EXPECT_EQ(outcome.code, ExitCode::kUsage) << testing::PrintToString(words);
    EXPECT_TRUE(Contains(outcome.err, "--help")) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_TRUE(Contains(RunCli({"frobnicate"}).err, "there is no verb `frobnicate`"));
}

TEST_F(CliTest, WrongUsageOfAVerbBelowAVerbPointsToItsOwnHelp) {
  const Outcome outcome = RunCli({"snapshot", "create", "monday", "--of", "vol", "--grow-at", "0"});
  EXPECT_EQ(outcome.code, ExitCode::kUsage);
  EXPECT_TRUE(Contains(outcome.err, "Run `sectormap snapshot create --help`")) << outcome.err;
  EXPECT_TRUE(Contains(RunCli({"snapshot"}).err, "Run `sectormap snapshot --help`"));
}

TEST_F(CliTest, WrongUsageIsJsonWhenAsked) {
  const Outcome outcome = RunCli({"-o", "json", "info", "--nosuch"});
  EXPECT_EQ(outcome.code, ExitCode::kUsage);
  EXPECT_EQ(ParseJson(outcome.err).kind_case(), google::protobuf::Value::kStructValue);
}

TEST_F(CliTest, EveryVerbsHelpShowsAnExampleOfIt) {
  const std::vector<std::string> verbs = absl::StrSplit(
      "create,load,suspend,resume,clear,remove,rename,message,wait,info,ls,table,status,deps,"
      "targets,stats,export,unexport,exports,sessions,snapshot create,snapshot ls,snapshot rm,"
      "snapshot rollback,snapshot export,move,mirror add,mirror remove,operations ls,"
      "operations wait,operations cancel",
      ',');
  for (const std::string& verb : verbs) {
    std::vector<std::string> words = absl::StrSplit(verb, ' ');
    words.push_back("--help");
    const Outcome outcome = RunCli(words);
    EXPECT_EQ(outcome.code, ExitCode::kOk) << verb;
    const std::vector<std::string> parts = absl::StrSplit(outcome.out, "Example:\n  sectormap");
    ASSERT_EQ(parts.size(), 2u) << verb << outcome.out;
    EXPECT_TRUE(Contains(parts[1], " " + verb)) << outcome.out;
  }
}

// Asks bash what it would complete, with the script that the command prints.
class CompletionTest : public CliTest {
 protected:
  CompletionTest() {
    WriteFile(scratch / "completion", RunAsIs({"completion", "bash"}).out);
    NameIs("volume-one");
  }

  // A stand-in for the command, which bash asks for the names.
  void NameIs(const std::string& name) {
    WriteFile(scratch / "sectormap",
              "#!/bin/sh\necho \"$*\" > " + (scratch / "asked") + "\necho '" + name + "'\n", 0700);
  }

  // `line` is parted into words as bash does it before it asks.
  std::string Complete(const std::string& line) {
    const std::string script =
        "PATH=" + scratch.path().string() + ":$PATH; . " + (scratch / "completion") +
        "; COMP_WORDS=(" + line +
        "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _sectormap; echo \"${COMPREPLY[*]}\"";
    WriteFile(scratch / "script", script);
    FILE* bash = popen(("bash " + (scratch / "script")).c_str(), "r");
    char text[4096] = {};
    const size_t length = fread(text, 1, sizeof(text) - 1, bash);
    pclose(bash);
    return std::string(text, length);
  }
};

TEST_F(CompletionTest, VerbsOptionsAndDevices) {
  EXPECT_EQ(Complete("sectormap sus"), "suspend\n");
  EXPECT_EQ(Complete("sectormap -o json suspend vol"), "volume-one\n");
  EXPECT_EQ(Complete("sectormap suspend --nof"), "--noflush\n");
  EXPECT_EQ(Complete("sectormap create vol"), "\n");
  EXPECT_EQ(Complete("sectormap reload v"), "volume-one\n");  // an alias
}

TEST_F(CompletionTest, VerbsBelowAVerb) {
  EXPECT_EQ(Complete("sectormap snapshot r"), "rm rollback\n");
  EXPECT_EQ(Complete("sectormap operations -o json c"), "cancel\n");
  EXPECT_EQ(Complete("sectormap snapshot create --grow"), "--grow-at --grow-by\n");
  EXPECT_EQ(Complete("sectormap snapshot create vol"), "\n");
  EXPECT_EQ(Complete("sectormap snapshot rm v"), "volume-one\n");
  EXPECT_EQ(Complete("sectormap mirror add v"), "volume-one\n");
}

TEST_F(CompletionTest, ValuesOfOptions) {
  EXPECT_EQ(Complete("sectormap -o ''"), "table json\n");
  EXPECT_EQ(Complete("sectormap ls --output j"), "json\n");
  EXPECT_EQ(Complete("sectormap ls --output = j"), "json\n");
  EXPECT_EQ(Complete("sectormap ls --output ="), "table json\n");
  EXPECT_EQ(Complete("sectormap snapshot create monday --of v"), "volume-one\n");
  // Nothing of ours: then bash offers files.
  EXPECT_EQ(Complete("sectormap load vol --table-file ''"), "\n");
  EXPECT_EQ(Complete("sectormap reload vol --table-file ''"), "\n");
  EXPECT_EQ(Complete("sectormap export --chap-secret-file v"), "\n");
  EXPECT_EQ(Complete("sectormap snapshot create monday --store v"), "\n");
  // After a flag comes what comes without it.
  EXPECT_EQ(Complete("sectormap suspend --noflush v"), "volume-one\n");
}

TEST_F(CompletionTest, TheServerThatIsNamedIsAskedForTheNames) {
  const auto asked = [this] {
    std::string line;
    std::getline(std::ifstream(scratch / "asked"), line);
    return line.substr(0, line.find(" info"));
  };
  EXPECT_EQ(Complete("sectormap --server unix : /a/b suspend v"), "volume-one\n");
  EXPECT_EQ(asked(), "--server unix:/a/b");
  EXPECT_EQ(Complete("sectormap --server = tcp : h : 7 suspend v"), "volume-one\n");
  EXPECT_EQ(asked(), "--server=tcp:h:7");
}

TEST_F(CompletionTest, ANameIsTheAdministratorsToCompleteAndNeverBashsToCarryOut) {
  const std::string trace = scratch / "trace";
  NameIs("vol$(touch " + trace + ")");
  EXPECT_EQ(Complete("sectormap suspend v"), "vol\\$\\(touch\\ " + trace + "\\)\n");
  EXPECT_FALSE(std::filesystem::exists(trace));
}

// --- JSON ---

TEST_F(CliTest, JsonIsAnObjectForOneDeviceAndAnArrayForAll) {
  devices.Add("x").device.set_size_sectors(16);
  const auto one = ParseJson(RunCli({"-o", "json", "info", "x"}).out).struct_value();
  EXPECT_EQ(one.fields().at("name").string_value(), "x");
  // protobuf's mapping: 64-bit numbers are strings; fields that are not set are there too.
  EXPECT_EQ(one.fields().at("size_sectors").string_value(), "16");
  EXPECT_FALSE(one.fields().at("suspended").bool_value());
  EXPECT_EQ(ParseJson(RunCli({"info", "-o", "json"}).out).list_value().values_size(), 1);
}

TEST_F(CliTest, JsonIsValidForEveryVerb) {
  devices.Add("x").table = "0 8 linear /srv/\"quoted\\\" 0\n";
  devices.Add("y");
  const std::vector<std::string> cases[] = {{"create", "x", "--notable"},
                                            {"load", "x", "--table", "0 8 zero"},
                                            {"suspend", "x"},
                                            {"resume", "x", "y"},
                                            {"clear", "x"},
                                            {"remove", "x"},
                                            {"remove", "x", "y"},
                                            {"rename", "x", "y"},
                                            {"message", "x", "0", "hello"},
                                            {"wait", "x"},
                                            {"info"},
                                            {"ls"},
                                            {"ls", "--tree"},
                                            {"table"},
                                            {"table", "x"},
                                            {"status", "x"},
                                            {"deps"},
                                            {"deps", "x"},
                                            {"targets"},
                                            {"stats", "x"},
                                            {"export", "x"},
                                            {"unexport", "x"},
                                            {"exports"},
                                            {"sessions"}};
  for (std::vector<std::string> words : cases) {
    words.insert(words.begin(), {"-o", "json"});
    const Outcome outcome = RunCli(words);
    EXPECT_EQ(outcome.code, ExitCode::kOk) << testing::PrintToString(words) << outcome.err;
    const auto kind = ParseJson(outcome.out).kind_case();
    EXPECT_TRUE(kind == google::protobuf::Value::kStructValue ||
                kind == google::protobuf::Value::kListValue)
        << testing::PrintToString(words);
  }
}

TEST_F(CliTest, JsonTableHasNameAndText) {
  devices.Add("x").table = "0 8 zero \n";
  const auto table = ParseJson(RunCli({"-o", "json", "table", "x"}).out).struct_value();
  EXPECT_EQ(table.fields().at("name").string_value(), "x");
  EXPECT_EQ(table.fields().at("table").string_value(), "0 8 zero \n");
}

TEST_F(CliTest, JsonTableHasTheRowsOfTheTargetThatIsAskedFor) {
  devices.Add("x").table = "0 8 zero \n8 8 error \n16 8 zero \n";
  const auto table =
      ParseJson(RunCli({"-o", "json", "table", "x", "--target", "zero"}).out).struct_value();
  EXPECT_EQ(table.fields().at("table").string_value(), "0 8 zero \n16 8 zero \n");
  const auto none =
      ParseJson(RunCli({"-o", "json", "table", "x", "--target", "mirror"}).out).struct_value();
  EXPECT_EQ(none.fields().at("table").string_value(), "");
}

TEST_F(CliTest, JsonOfNothingIsAnEmptyArray) {
  EXPECT_EQ(RunCli({"-o", "json", "ls"}).out, "[]\n");
  EXPECT_EQ(RunCli({"-o", "json", "table"}).out, "[]\n");
}

// --- Where the daemon is ---

TEST_F(CliTest, TheEnvironmentNamesTheDaemon) {
  environment["SECTORMAP_SERVER"] = uri();
  EXPECT_EQ(RunAsIs({"ls"}).code, ExitCode::kOk);
}

TEST_F(CliTest, APlainPathIsAUnixSocket) {
  EXPECT_EQ(RunAsIs({"--server", scratch / "control.sock", "ls"}).code, ExitCode::kOk);
}

// Listens where the test says, too.
class ElsewhereTest : public CliTest {
 protected:
  int Listen(const std::string& address) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&there_);
    server_ = builder.BuildAndStart();
    return port;
  }

 private:
  FakeDeviceMapper there_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(ElsewhereTest, AnAddressMayBeWrittenAsTheDaemonWritesIt) {
  const std::string address = absl::StrCat("127.0.0.1:", Listen("127.0.0.1:0"));
  EXPECT_EQ(RunAsIs({"--server", "tcp:" + address, "ls"}).code, ExitCode::kOk);
  EXPECT_EQ(RunAsIs({"--server", address, "ls"}).code, ExitCode::kOk);
}

TEST_F(ElsewhereTest, NoProxyStandsBetween) {
  const std::string address = absl::StrCat("tcp:127.0.0.1:", Listen("127.0.0.1:0"));
  setenv("http_proxy", "http://127.0.0.1:1", 1);
  const Outcome outcome = RunAsIs({"--server", address, "ls"});
  unsetenv("http_proxy");
  EXPECT_EQ(outcome.code, ExitCode::kOk) << outcome.err;
}

TEST_F(ElsewhereTest, ASocketsPathMayHoldWhatMeansSomethingInAUri) {
  Listen("unix:" + (scratch / "a%20b%231%3F2%2541.sock"));
  const std::string path = scratch / "a b#1?2%41.sock";
  ASSERT_TRUE(std::filesystem::exists(path));
  for (const char* prefix : {"", "unix:", "unix://"}) {
    const Outcome outcome = RunAsIs({"--server", prefix + path, "ls"});
    EXPECT_EQ(outcome.code, ExitCode::kOk) << outcome.err;
  }
}

TEST_F(CliTest, NobodyAtAnAddressSaysHowToListenThere) {
  for (const std::string address : {"127.0.0.1:1", "tcp:127.0.0.1:1"}) {
    const Outcome outcome = RunAsIs({"--server", address, "ls"});
    EXPECT_EQ(outcome.code, ExitCode::kUnreachable);
    EXPECT_TRUE(Contains(outcome.err, "`--control tcp:127.0.0.1:1`")) << outcome.err;
  }
}

TEST_F(CliTest, TheDefaultIsTheUsersStateDirectory) {
  environment["XDG_STATE_HOME"] = scratch.path().string();
  const Outcome outcome = RunAsIs({"ls"});
  EXPECT_EQ(outcome.code, ExitCode::kUnreachable);
  EXPECT_TRUE(Contains(outcome.err, "unix:" + (scratch / "sectormap/control.sock"))) << outcome.err;
  environment = {{"HOME", scratch.path().string()}};
  EXPECT_TRUE(Contains(RunAsIs({"ls"}).err, scratch / ".local/state/sectormap"));
  environment["XDG_STATE_HOME"] = "relative";
  EXPECT_TRUE(Contains(RunAsIs({"ls"}).err, scratch / ".local/state/sectormap"));
}

TEST_F(CliTest, ARelativePathIsASocket) {
  const Outcome outcome = RunAsIs({"--server", "some/control.sock", "ls"});
  EXPECT_EQ(outcome.code, ExitCode::kUnreachable);
  EXPECT_TRUE(Contains(outcome.err, "unix:some/control.sock: there is no such")) << outcome.err;
}

TEST_F(CliTest, NoSocketSaysHowToStartTheDaemon) {
  const Outcome outcome = RunAsIs({"--server", "unix:/nonexistent/state/control.sock", "ls"});
  EXPECT_EQ(outcome.code, ExitCode::kUnreachable);
  EXPECT_TRUE(Contains(outcome.err, "sectormapd --state-dir /nonexistent/state")) << outcome.err;
}

TEST_F(CliTest, ADeadSocketSaysThatTheDaemonHasEnded) {
  const std::string path = scratch / "dead.sock";
  {
    // A server that ends removes its socket; one that is killed leaves it.
    FakeIscsi other;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + path, grpc::InsecureServerCredentials());
    builder.RegisterService(&other);
    const auto server = builder.BuildAndStart();
    std::filesystem::create_hard_link(path, path + ".kept");
    server->Shutdown();
  }
  const Outcome outcome = RunAsIs({"--server", path + ".kept", "ls"});
  EXPECT_EQ(outcome.code, ExitCode::kUnreachable);
  EXPECT_TRUE(Contains(outcome.err, "the daemon has ended")) << outcome.err;
}

TEST_F(CliTest, AnUnreachableDaemonIsJsonWhenAsked) {
  const Outcome outcome = RunAsIs({"-o", "json", "--server", "/nonexistent/s", "ls"});
  EXPECT_EQ(outcome.out, "");
  const auto error = ParseJson(outcome.err).struct_value().fields().at("error").struct_value();
  EXPECT_EQ(error.fields().at("exit_code").number_value(), 5);
}

}  // namespace
}  // namespace sectormap::cli
