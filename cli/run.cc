// SPDX-License-Identifier: Apache-2.0
#include "cli/run.h"

#include <algorithm>
#include <ostream>
#include <utility>

#include "cli/completion.h"
#include "cli/server_address.h"
#include "cli/verbs.h"
#include "cli/version.h"
#include "core/base/option_words.h"

namespace sectormap::cli {
namespace {

constexpr char kFooter[] =
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not found,\n"
    "4 conflict (exists already, busy, wrong state), 5 no daemon answered.\n"
    "`sectormap VERB --help` shows an example of each verb.";

struct GlobalOptions {
  std::string server;
  std::string output = "table";
  bool verbose = false;
};

void AddGlobalOptions(CLI::App& app, GlobalOptions& options) {
  app.add_option(
         "--server", options.server,
         "The daemon: unix:PATH or tcp:HOST:PORT. Else $SECTORMAP_SERVER, else control.sock in "
         "the default state directory")
      ->type_name("URI");
  app.add_option("-o,--output", options.output, "table (dmsetup's forms) or json")
      ->check(CLI::IsMember({"table", "json"}));
  app.add_flag("-v,--verbose", options.verbose, "Show a device after changing it");
  app.set_version_flag("--version", std::string("sectormap ") + kVersion);
}

void AddCompletion(Verbs& verbs, const CLI::App& app) {
  verbs.Group("");  // hidden: not what the command is for
  verbs
      .Add("completion", "Print a script that completes the command line",
           "source <(sectormap completion bash)",
           [&app](Session& session) {
             session.out() << BashCompletion(app);
             return ExitCode::kOk;
           })
      ->add_option("shell", "bash")
      ->required()
      ->check(CLI::IsMember({"bash"}));
}

// The words before any were understood: is the error to be JSON?
bool AsksForJson(const std::vector<std::string>& words) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "-ojson" || words[i] == "--output=json") return true;
    if ((words[i] == "-o" || words[i] == "--output") && i + 1 < words.size() &&
        words[i + 1] == "json") {
      return true;
    }
  }
  return false;
}

ExitCode ShowParseResult(const CLI::App& app, const CLI::ParseError& error, bool json,
                         const Terminal& terminal) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    app.exit(error, terminal.out, terminal.err);  // --help, --version
    return ExitCode::kOk;
  }
  std::string message = error.what();
  if (app.get_subcommands().empty()) {
    const std::vector<std::string> unknown = app.remaining();
    message = unknown.empty() ? "no verb given" : "there is no verb `" + unknown.front() + "`";
  }
  PrintError(terminal.err, json, "INVALID_ARGUMENT", ExitCode::kUsage, message);
  if (!json) {
    std::string typed = "sectormap";
    // Those that were given: one, and one below it.
    for (const CLI::App* verb = &app; !verb->get_subcommands().empty();) {
      verb = verb->get_subcommands().front();
      typed += " " + verb->get_name();
    }
    terminal.err << "Run `" << typed << " --help` to see what it takes.\n";
  }
  return ExitCode::kUsage;
}

}  // namespace

ExitCode Run(std::vector<std::string> words, const Terminal& terminal) {
  CLI::App app("Sectormap: the device mapper as a network storage service.", "sectormap");
  app.footer(kFooter);
  app.require_subcommand(1);
  app.fallthrough();  // --server and -o may also stand after the verb

  GlobalOptions options;
  AddGlobalOptions(app, options);
  Action action;
  Verbs verbs(app, action);
  AddDeviceVerbs(verbs);
  AddQueryVerbs(verbs);
  AddExportVerbs(verbs);
  AddOperationVerbs(verbs);
  AddCompletion(verbs, app);

  words = WithEmptyValues(std::move(words));
  const bool json_errors = AsksForJson(words);
  std::reverse(words.begin(), words.end());  // CLI11 takes them from the back
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    return ShowParseResult(app, error, json_errors, terminal);
  }
  Session session(terminal, ServerUri(options.server, terminal), options.output == "json",
                  options.verbose);
  return action(session);
}

}  // namespace sectormap::cli
