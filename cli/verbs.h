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
    verb->callback([&chosen = chosen_, action = std::move(action)] { chosen = action; });
    return verb;
  }

  // A verb whose own first word is a verb again.
  Verbs Under(std::string name, std::string description, std::string example) {
    CLI::App* verb = app_.add_subcommand(std::move(name), std::move(description));
    verb->footer("Example:\n  " + std::move(example));
    verb->group(group_);
    verb->require_subcommand(1);
    verb->fallthrough();
    Verbs below(*verb, chosen_);
    below.Group("Verbs");
    return below;
  }

  // The heading in --help of the verbs added from now on.
  void Group(std::string name) { group_ = std::move(name); }

 private:
  CLI::App& app_;
  Action& chosen_;
  std::string group_;
};

// For numbers without a sign: CLI11 takes -1 for the largest that there is, and nothing for 0.
inline CLI::Validator Unsigned() {
  return {[](std::string& text) -> std::string {
            if (text.empty()) return "give a number";
            return text.starts_with('-') ? text + " is below zero" : "";
          },
          ""};
}

void AddDeviceVerbs(Verbs& verbs);     // what changes a device
void AddQueryVerbs(Verbs& verbs);      // what shows devices
void AddExportVerbs(Verbs& verbs);     // what initiators see
void AddOperationVerbs(Verbs& verbs);  // long work on devices in use
void AddSnapshotVerbs(Verbs& verbs);   // of these, `snapshot`

// Of AddExportVerbs, `export` alone. The shortest example, as it is typed there.
void AddExportVerb(Verbs& verbs, const std::string& example);

}  // namespace sectormap::cli
