// SPDX-License-Identifier: Apache-2.0
// The verbs of the command. Each is a description for the parser and an action for later.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include <CLI/CLI.hpp>

#include "absl/strings/string_view.h"
#include "cli/session.h"

namespace sectormap::cli {

using Action = std::function<ExitCode(Session& session)>;

// Collects the verbs of an App, which outlives it; remembers what the one that was typed does.
class Verbs {
 public:
  Verbs(CLI::App& app, Action& chosen) : app_(app), chosen_(chosen) {}

  // The options are added to what this returns.
  CLI::App* Add(std::string name, std::string description, std::string example, Action action) {
    CLI::App* verb = app_.add_subcommand(std::move(name), std::move(description));
    verb->footer("Example:\n  " + std::move(example));
    verb->group(group_);
    verb->callback([this, action = std::move(action)] { chosen_ = action; });
    return verb;
  }

  // The heading in --help of the verbs added from now on.
  void Group(std::string name) { group_ = std::move(name); }

 private:
  CLI::App& app_;
  Action& chosen_;
  std::string group_;
};

void AddDeviceVerbs(Verbs& verbs);  // what changes a device
void AddQueryVerbs(Verbs& verbs);   // what shows devices
void AddExportVerbs(Verbs& verbs);  // what initiators see

}  // namespace sectormap::cli
