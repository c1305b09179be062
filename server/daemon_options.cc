// SPDX-License-Identifier: Apache-2.0
#include "server/daemon_options.h"

#include <sched.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/async/reactor.h"
#include "core/async/tcp_stream.h"
#include "core/base/option_words.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "server/config_file.h"

namespace sectormap {
namespace {

constexpr std::array<std::string_view, 5> kLogLevels = {"debug", "info", "warning", "error", "off"};
constexpr std::string_view kNoMetrics = "none";

constexpr char kFooter[] =
    "Without options it serves iSCSI on 127.0.0.1:3260 and keeps its state in /var/lib/sectormap\n"
    "(as root) or ~/.local/state/sectormap. Then, with the command line tool:\n"
    "  truncate -s 1G STATE_DIR/devices/disk.img\n"
    "  sectormap create disk --table \"0 2097152 linear STATE_DIR/devices/disk.img 0\"\n"
    "  sectormap export disk\n"
    "and on the initiator: iscsiadm -m discovery -t sendtargets -p 127.0.0.1:3260\n"
    "Signals: SIGTERM stops cleanly, SIGHUP reads the configuration again.";

std::string DefaultStateDirectory() {
  if (geteuid() == 0) return "/var/lib/sectormap";
  const char* state_home = std::getenv("XDG_STATE_HOME");
  if (state_home != nullptr && state_home[0] == '/') return absl::StrCat(state_home, "/sectormap");
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] != '/') return "";
  return absl::StrCat(home, "/.local/state/sectormap");
}

int UsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
  return std::clamp(CPU_COUNT(&cores), 1, kMaxReactors);
}

absl::Status CheckListen(const std::string& address) {
  const absl::Status status = Listener::CheckAddress(address);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat("--listen: ", status.message(), ", or with port 0 for a free one"));
}

absl::Status CheckMetrics(const std::string& address) {
  if (Listener::CheckAddress(address).ok() && !address.starts_with('[')) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--metrics ", address,
                   ": give ADDR:PORT with a numeric IPv4 address (Debian's civetweb, which answers "
                   "there, has no IPv6), port 0 for a free one, or none"));
}

// As typed; what is not there was not given.
struct Given {
  std::optional<std::string> state_dir, metrics, log_level, config, file_mode;
  std::vector<std::string> listen, control, device_roots;
  std::optional<int> reactors, poll;
  bool check_config = false;
};

void Declare(CLI::App& app, Given& given) {
  // CLI11 takes an empty word for a number that was not given.
  const CLI::Validator given_number(
      [](const std::string& text) { return text.empty() ? "give a number" : ""; }, "");
  app.footer(kFooter);
  app.set_help_flag("--help,-h", "Print this and exit");
  app.set_version_flag("--version", "sectormapd " SECTORMAP_VERSION);
  app.add_option("--state-dir", given.state_dir, "Where everything that must survive is kept")
      ->type_name("DIR");
  app.add_option("--listen", given.listen,
                 "iSCSI portal; may be repeated; port 0 takes a free one [127.0.0.1:3260]")
      ->type_name("ADDR:PORT")
      ->allow_extra_args(false);
  app.add_option("--control", given.control,
                 "gRPC control: unix:PATH or tcp:ADDR:PORT (loopback); may be repeated "
                 "[unix:STATE_DIR/control.sock]")
      ->type_name("URI")
      ->allow_extra_args(false);
  app.add_option("--metrics", given.metrics, "Prometheus metrics, or `none` [127.0.0.1:9360]")
      ->type_name("ADDR:PORT");
  app.add_option("--reactors", given.reactors, "I/O threads [one per core]")
      ->type_name("N")
      ->check(given_number);
  app.add_option("--poll", given.poll,
                 "While commands keep coming, look for the next one so long before sleeping; 0: "
                 "never [100]")
      ->type_name("MICROSECONDS")
      ->check(given_number);
  app.add_option("--device-root", given.device_roots,
                 "Tables may name files and block devices below it only; may be repeated "
                 "[STATE_DIR/devices]")
      ->type_name("DIR")
      ->allow_extra_args(false);
  app.add_option("--file-mode", given.file_mode,
                 "Regular files through the page cache (writeback) or past it (direct) [writeback]")
      ->type_name("MODE");
  app.add_option("--log-level", given.log_level, "debug, info, warning, error or off [info]")
      ->type_name("LEVEL");
  app.add_option("--config", given.config, "The same keys as TOML; the command line wins")
      ->type_name("FILE.toml");
  app.add_flag("--check-config", given.check_config, "Check options and configuration, and exit");
}

// What the command line leaves open, the file may say.
void Complete(Given& given, ConfigFile file) {
  if (!given.state_dir) given.state_dir = std::move(file.state_dir);
  if (!given.metrics) given.metrics = std::move(file.metrics);
  if (!given.log_level) given.log_level = std::move(file.log_level);
  if (!given.file_mode) given.file_mode = std::move(file.file_mode);
  if (!given.reactors) given.reactors = file.reactors;
  if (!given.poll) given.poll = file.poll;
  if (given.listen.empty()) given.listen = std::move(file.listen);
  if (given.control.empty()) given.control = std::move(file.control);
  if (given.device_roots.empty()) given.device_roots = std::move(file.device_roots);
}

absl::StatusOr<std::string> AbsoluteDirectory(std::string_view option, const std::string& path) {
  if (path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", Absl(option), " is empty: give a directory"));
  }
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", Absl(option), " ", path, ": ", error.message()));
  }
  std::string normal = absolute.lexically_normal().string();
  if (normal.size() > 1 && normal.ends_with('/')) normal.pop_back();
  return normal;
}

absl::Status ReadPlaces(const Given& given, DaemonOptions& options) {
  const std::string state_dir = given.state_dir.value_or(DefaultStateDirectory());
  if (state_dir.empty() && !given.state_dir.has_value()) {
    return absl::InvalidArgumentError(
        "neither XDG_STATE_HOME nor HOME says where to keep state; give --state-dir DIR");
  }
  ASSIGN_OR_RETURN(options.state_dir, AbsoluteDirectory("state-dir", state_dir));
  for (const std::string& root : given.device_roots) {
    ASSIGN_OR_RETURN(std::string directory, AbsoluteDirectory("device-root", root));
    options.device_roots.push_back(std::move(directory));
  }
  options.default_device_root = options.device_roots.empty();
  if (options.default_device_root) {
    options.device_roots.push_back(absl::StrCat(options.state_dir, "/devices"));
  }
  return absl::OkStatus();
}

absl::Status ReadListeners(const Given& given, DaemonOptions& options) {
  if (!given.listen.empty()) options.listen = given.listen;
  for (const std::string& address : options.listen) {
    RETURN_IF_ERROR(CheckListen(address));
  }
  std::vector<std::string> control = given.control;
  if (control.empty()) control.push_back(absl::StrCat("unix:", options.state_dir, "/control.sock"));
  for (const std::string& uri : control) {
    ASSIGN_OR_RETURN(control::ControlAddress address, control::ParseControlAddress(uri));
    options.control.push_back(std::move(address));
  }
  if (given.metrics == kNoMetrics) options.metrics.reset();
  if (given.metrics.has_value() && options.metrics.has_value()) options.metrics = given.metrics;
  return options.metrics.has_value() ? CheckMetrics(*options.metrics) : absl::OkStatus();
}

absl::StatusOr<DaemonOptions> ToOptions(const Given& given) {
  DaemonOptions options;
  RETURN_IF_ERROR(ReadPlaces(given, options));
  RETURN_IF_ERROR(ReadListeners(given, options));
  options.reactors = given.reactors.value_or(UsableCores());
  if (options.reactors < 1 || options.reactors > kMaxReactors) {
    return absl::InvalidArgumentError(absl::StrCat("--reactors ", options.reactors, ": give 1 to ",
                                                   kMaxReactors, ", at best one per core"));
  }
  options.poll =
      std::chrono::microseconds(given.poll.value_or(static_cast<int>(kDefaultPoll.count())));
  if (options.poll.count() < 0 || options.poll > kPollMax) {
    return absl::InvalidArgumentError(absl::StrCat("--poll ", options.poll.count(), ": give 0 to ",
                                                   kPollMax.count(), " microseconds"));
  }
  const std::string file_mode = given.file_mode.value_or("writeback");
  if (file_mode != "writeback" && file_mode != "direct") {
    return absl::InvalidArgumentError(
        absl::StrCat("--file-mode ", file_mode, ": give writeback or direct"));
  }
  options.file_mode =
      file_mode == "direct" ? FileDevice::Mode::kDirect : FileDevice::Mode::kWriteback;
  if (given.log_level.has_value()) options.log_level = *given.log_level;
  if (std::ranges::find(kLogLevels, options.log_level) == kLogLevels.end()) {
    return absl::InvalidArgumentError(absl::StrCat("--log-level ", options.log_level,
                                                   ": give one of debug, info, warning, "
                                                   "error and off"));
  }
  return options;
}

}  // namespace

absl::StatusOr<CommandLine> ReadCommandLine(int argc, const char* const* argv) {
  CLI::App app("sectormapd: the device mapper as a network storage service", "sectormapd");
  Given given;
  Declare(app, given);
  std::vector<std::string> words = WithEmptyValues({argv + 1, argv + argc});
  std::ranges::reverse(words);  // CLI11 takes them from the back
  CommandLine line;
  try {
    app.parse(std::move(words));
  } catch (const CLI::CallForHelp&) {
    line.text = app.help();
    return line;
  } catch (const CLI::CallForVersion& version) {
    line.text = absl::StrCat(version.what(), "\n");
    return line;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(error.what(), "; `sectormapd --help` lists the options"));
  }
  if (given.config.has_value()) {
    ASSIGN_OR_RETURN(ConfigFile file, ReadConfigFile(*given.config));
    Complete(given, std::move(file));
  }
  line.check_config = given.check_config;
  ASSIGN_OR_RETURN(line.options, ToOptions(given));
  return line;
}

std::vector<std::string> MissingDeviceRoots(const DaemonOptions& options) {
  std::vector<std::string> sentences;
  if (options.default_device_root) return sentences;
  for (const std::string& root : options.device_roots) {
    std::error_code error;
    if (std::filesystem::is_directory(root, error)) continue;
    sentences.push_back(absl::StrCat("--device-root ", root, ": ",
                                     error ? error.message() : "Not a directory",
                                     "; no table can name anything below it until it is there"));
  }
  return sentences;
}

}  // namespace sectormap
