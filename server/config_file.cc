// SPDX-License-Identifier: Apache-2.0
#include "server/config_file.h"

#include <toml++/toml.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"

namespace sectormap {
namespace {

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  absl::Status Read(const toml::table& table, ConfigFile& file) const {
    for (const auto& [key, node] : table) RETURN_IF_ERROR(ReadKey(key, node, file));
    return absl::OkStatus();
  }

  absl::Status Refuse(const toml::source_region& where, std::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ":", where.begin.line, ":", where.begin.column, ": ", Absl(what)));
  }

 private:
  absl::Status ReadKey(const toml::key& key, const toml::node& node, ConfigFile& file) const {
    const std::string_view name = key.str();
    if (name == "state-dir") return ReadText(name, node, file.state_dir);
    if (name == "metrics") return ReadText(name, node, file.metrics);
    if (name == "file-mode") return ReadText(name, node, file.file_mode);
    if (name == "log-level") return ReadText(name, node, file.log_level);
    if (name == "listen") return ReadTexts(name, node, file.listen);
    if (name == "control") return ReadTexts(name, node, file.control);
    if (name == "device-root") return ReadTexts(name, node, file.device_roots);
    if (name == "reactors") return ReadNumber(name, node, file.reactors);
    if (name == "poll") return ReadNumber(name, node, file.poll);
    return Refuse(key.source(),
                  absl::StrCat("unknown key '", Absl(name),
                               "'; known are state-dir, listen, control, metrics, reactors, poll, "
                               "device-root, file-mode and log-level"));
  }

  absl::Status ReadText(std::string_view name, const toml::node& node,
                        std::optional<std::string>& value) const {
    value = node.value_exact<std::string>();
    if (value.has_value()) return absl::OkStatus();
    return Refuse(node.source(), absl::StrCat(Absl(name), " takes a text in quotes"));
  }

  absl::Status ReadTexts(std::string_view name, const toml::node& node,
                         std::vector<std::string>& values) const {
    if (const toml::array* array = node.as_array()) {
      for (const toml::node& element : *array) {
        std::optional<std::string> value;
        RETURN_IF_ERROR(ReadText(name, element, value));
        values.push_back(*std::move(value));
      }
      return absl::OkStatus();
    }
    std::optional<std::string> value;
    RETURN_IF_ERROR(ReadText(name, node, value));
    values.push_back(*std::move(value));
    return absl::OkStatus();
  }

  absl::Status ReadNumber(std::string_view name, const toml::node& node,
                          std::optional<int>& value) const {
    const std::optional<int64_t> number = node.value_exact<int64_t>();
    if (!number.has_value() || *number < 0 || *number > std::numeric_limits<int>::max()) {
      return Refuse(node.source(), absl::StrCat(Absl(name), " takes a number"));
    }
    value = static_cast<int>(*number);
    return absl::OkStatus();
  }

  const std::string& path_;
};

}  // namespace

absl::StatusOr<ConfigFile> ReadConfigFile(const std::string& path) {
  std::ifstream stream(path);
  std::string text;
  char block[4096];
  while (stream.read(block, sizeof block) || stream.gcount() > 0) {
    text.append(block, static_cast<size_t>(stream.gcount()));
  }
  // A directory can be opened, but not read.
  if (!stream.is_open() || stream.bad()) {
    return absl::NotFoundError(absl::StrCat("--config ", path, ": ", std::strerror(errno)));
  }
  const Reader reader(path);
  ConfigFile file;
  try {
    RETURN_IF_ERROR(reader.Read(toml::parse(text), file));
  } catch (const toml::parse_error& error) {
    return reader.Refuse(error.source(), error.description());
  }
  return file;
}

}  // namespace sectormap
