// SPDX-License-Identifier: Apache-2.0
#include "server/daemon_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <regex>

#include "tests/support/test_directory.h"

namespace sectormap {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DaemonOptionsTest : public ::testing::Test {
 protected:
  absl::StatusOr<CommandLine> Read(std::vector<std::string> words) {
    words.insert(words.begin(), "sectormapd");
    std::vector<const char*> argv;
    for (const std::string& word : words) argv.push_back(word.c_str());
    return ReadCommandLine(static_cast<int>(argv.size()), argv.data());
  }

  std::string Refusal(const std::vector<std::string>& words) {
    const absl::StatusOr<CommandLine> line = Read(words);
    EXPECT_EQ(line.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(line.status().message());
  }

  std::string File(const std::string& text) {
    const std::string path = scratch_.path().string() + "/sectormapd.toml";
    std::ofstream(path) << text;
    return path;
  }

  TestDirectory scratch_{"/tmp"};
};

TEST_F(DaemonOptionsTest, TheDefaultsServeOnLoopback) {
  const auto line = Read({"--state-dir", "/s"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_THAT(line->options.listen, ElementsAre("127.0.0.1:3260"));
  ASSERT_EQ(line->options.control.size(), 1u);
  EXPECT_EQ(line->options.control[0].ToGrpc(), "unix:/s/control.sock");
  EXPECT_EQ(line->options.metrics, "127.0.0.1:9360");
  EXPECT_THAT(line->options.device_roots, ElementsAre("/s/devices"));
  EXPECT_TRUE(line->options.default_device_root);
  EXPECT_GE(line->options.reactors, 1);
}

TEST_F(DaemonOptionsTest, RepeatedOptionsAddUp) {
  const auto line = Read({"--state-dir=/s", "--listen", "127.0.0.1:0", "--listen", "[::1]:0",
                          "--device-root", "/x", "--device-root", "/y", "--metrics", "none"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_THAT(line->options.listen, ElementsAre("127.0.0.1:0", "[::1]:0"));
  EXPECT_THAT(line->options.device_roots, ElementsAre("/x", "/y"));
  EXPECT_FALSE(line->options.default_device_root);
  EXPECT_FALSE(line->options.metrics.has_value());
}

TEST_F(DaemonOptionsTest, TheFileHasTheSameKeysAndTheCommandLineWins) {
  const std::string file = File(
      "state-dir = \"/from/file\"\nlisten = [\"127.0.0.1:1\", \"[::1]:1\"]\nreactors = 3\n"
      "poll = 7\nfile-mode = \"direct\"\n"
      "control = \"tcp:127.0.0.1:7\"\nmetrics = \"none\"\ndevice-root = \"/d\"\n"
      "log-level = \"debug\"\n");
  const auto line = Read({"--config", file, "--reactors", "2"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->options.state_dir, "/from/file");
  EXPECT_THAT(line->options.listen, ElementsAre("127.0.0.1:1", "[::1]:1"));
  EXPECT_EQ(line->options.reactors, 2);
  EXPECT_EQ(line->options.poll, std::chrono::microseconds(7));
  EXPECT_EQ(line->options.file_mode, FileDevice::Mode::kDirect);
  EXPECT_EQ(line->options.control[0].ToGrpc(), "127.0.0.1:7");
  EXPECT_FALSE(line->options.metrics.has_value());
  EXPECT_THAT(line->options.device_roots, ElementsAre("/d"));
  EXPECT_EQ(line->options.log_level, "debug");
}

TEST_F(DaemonOptionsTest, UnknownKeysAndWrongValuesNameTheirLineAndColumn) {
  EXPECT_THAT(Refusal({"--config", File("reactors = 1\n  lisen = \"x\"\n")}),
              HasSubstr("sectormapd.toml:2:3: unknown key 'lisen'"));
  EXPECT_THAT(Refusal({"--config", File("reactors = \"two\"\n")}),
              HasSubstr(":1:12: reactors takes a number"));
  EXPECT_THAT(Refusal({"--config", File("listen = [\"127.0.0.1:1\", 2]\n")}),
              HasSubstr(":1:26: listen takes a text"));
  EXPECT_THAT(Refusal({"--config", File("listen = \n")}), HasSubstr("sectormapd.toml:1:"));
}

TEST_F(DaemonOptionsTest, TheShippedFileIsGoodAsItIsAndWithItsExamples) {
  std::ifstream shipped(SECTORMAP_SHIPPED_CONFIG);
  ASSERT_TRUE(shipped.is_open());
  const std::regex example("# ([a-z-]+ = .*)");
  std::string as_it_is, with_examples;
  for (std::string line; std::getline(shipped, line);) {
    as_it_is += line + "\n";
    with_examples += std::regex_replace(line, example, "$1") + "\n";
  }
  EXPECT_TRUE(Read({"--config", File(as_it_is)}).ok());
  const auto line = Read({"--config", File(with_examples)});
  ASSERT_TRUE(line.ok()) << line.status();
  // Names below /dev/disk are links, and what counts is where they lead.
  EXPECT_THAT(line->options.device_roots, ElementsAre("/var/lib/sectormap/devices", "/dev"));
}

TEST_F(DaemonOptionsTest, AMissingFileIsAnError) {
  EXPECT_FALSE(Read({"--config", scratch_.path().string() + "/nothing"}).ok());
}

TEST_F(DaemonOptionsTest, ADirectoryIsNoFileAndAnEmptyFileSaysNothing) {
  const absl::Status status = Read({"--config", scratch_.path().string()}).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("directory")) << status;
  EXPECT_TRUE(Read({"--config", File("")}).ok());
}

TEST_F(DaemonOptionsTest, WrongOptionsSayWhatWouldBeRight) {
  EXPECT_THAT(Refusal({"--nonsense"}), HasSubstr("--help"));
  EXPECT_THAT(Refusal({"--listen", "127.0.0.1"}), HasSubstr("ADDR:PORT"));
  EXPECT_THAT(Refusal({"--listen", "127.0.0.1:99999"}), HasSubstr("ADDR:PORT"));
  for (const char* address : {"127.0.0.1:", "127.1:3260", "host:3260", "::1:3260", "[::g]:3260"}) {
    EXPECT_THAT(Refusal({"--listen", address}), AllOf(HasSubstr("--listen"), HasSubstr(address)));
  }
  for (const char* address : {"9360", "localhost:9360", "[::1]:9360", "2130706433:9360"}) {
    EXPECT_THAT(Refusal({"--metrics", address}), HasSubstr("numeric IPv4 address"));
  }
  EXPECT_THAT(Refusal({"--reactors", "0"}), HasSubstr("give 1 to"));
  EXPECT_THAT(Refusal({"--reactors", "65"}), HasSubstr("give 1 to"));
  EXPECT_THAT(Refusal({"--poll", "-1"}), HasSubstr("give 0 to 1000"));
  EXPECT_THAT(Refusal({"--poll", "1001"}), HasSubstr("give 0 to 1000"));
  EXPECT_THAT(Refusal({"--file-mode", "mmap"}), HasSubstr("writeback or direct"));
  EXPECT_THAT(Refusal({"--log-level", "loud"}), HasSubstr("debug, info"));
  EXPECT_THAT(Refusal({"--control", "tcp:0.0.0.0:1"}), HasSubstr("loopback"));
  EXPECT_THAT(Refusal({"--state-dir", "/" + std::string(120, 'x')}), HasSubstr("--control"));
}

TEST_F(DaemonOptionsTest, AnEmptyValueIsNotTheWordBehindIt) {
  EXPECT_EQ(Refusal({"--state-dir=", "--check-config"}), "--state-dir is empty: give a directory");
  EXPECT_EQ(Refusal({"--state-dir", ""}), "--state-dir is empty: give a directory");
  EXPECT_EQ(Refusal({"--state-dir", "/s", "--device-root=", "--check-config"}),
            "--device-root is empty: give a directory");
  EXPECT_THAT(Refusal({"--state-dir", "/s", "--listen=", "--check-config"}),
              HasSubstr("ADDR:PORT"));
  EXPECT_THAT(Refusal({"--state-dir", "/s", "--reactors="}), HasSubstr("give a number"));
  EXPECT_THAT(Refusal({"--state-dir", "/s", "--poll="}), HasSubstr("give a number"));
}

TEST_F(DaemonOptionsTest, DeviceRootsThatAreNoDirectoriesAreNamed) {
  const std::string here = scratch_.path().string();
  const std::string file = File("");
  const auto given = Read({"--state-dir", "/s", "--device-root", here, "--device-root", file,
                           "--device-root", here + "/nowhere"});
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_THAT(MissingDeviceRoots(given->options),
              ElementsAre(AllOf(HasSubstr(file), HasSubstr("Not a directory")),
                          AllOf(HasSubstr(here + "/nowhere"), HasSubstr("No such file"))));
  // The default one is made.
  EXPECT_THAT(MissingDeviceRoots(Read({"--state-dir", here + "/nowhere"})->options), IsEmpty());
}

TEST_F(DaemonOptionsTest, HelpTellsWhatToDoNext) {
  const auto help = Read({"--help"});
  ASSERT_TRUE(help.ok());
  EXPECT_THAT(help->text.value_or(""), HasSubstr("sectormap export"));
  const auto version = Read({"--version"});
  ASSERT_TRUE(version.ok());
  EXPECT_THAT(version->text.value_or(""), HasSubstr("sectormapd "));
}

TEST_F(DaemonOptionsTest, TheStateOfAUserIsBelowXdgStateHome) {
  if (geteuid() == 0) {
    EXPECT_EQ(Read({})->options.state_dir, "/var/lib/sectormap");
    return;
  }
  setenv("XDG_STATE_HOME", "/xdg", 1);
  EXPECT_EQ(Read({})->options.state_dir, "/xdg/sectormap");
  unsetenv("XDG_STATE_HOME");
  setenv("HOME", "/home/u", 1);
  EXPECT_EQ(Read({})->options.state_dir, "/home/u/.local/state/sectormap");
}

}  // namespace
}  // namespace sectormap
