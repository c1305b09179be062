// SPDX-License-Identifier: Apache-2.0
#include "cli/completion.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sectormap::cli {
namespace {

// Verbs without a group are hidden.
bool IsShown(const CLI::App* verb) { return !verb->get_group().empty(); }

std::vector<std::string> OptionNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

// True if its first word is the name of a device that exists.
bool TakesDevice(const CLI::App* verb) {
  return verb->get_name() != "create" && verb->get_option_no_throw("name") != nullptr;
}

}  // namespace

std::string BashCompletion(const CLI::App& app) {
  std::vector<std::string> verbs, cases;
  for (const CLI::App* verb : app.get_subcommands(nullptr)) {
    if (!IsShown(verb)) continue;
    verbs.push_back(verb->get_name());
    cases.push_back(absl::StrCat("      ", verb->get_name(), ") words=\"",
                                 absl::StrJoin(OptionNames(*verb), " "),
                                 "\"; names=", TakesDevice(verb) ? "1" : "", " ;;\n"));
  }
  // The server given before the verb is asked for the names.
  return absl::StrCat(R"(# bash completion for sectormap: source <(sectormap completion bash)
_sectormap() {
  local current=${COMP_WORDS[COMP_CWORD]} verb= words= names= name quoted server=() i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --server) server=(--server "${COMP_WORDS[i + 1]}"); ((i++)) ;;
      -o | --output) ((i++)) ;;
      -*) ;;
      *) verb=${COMP_WORDS[i]}; break ;;
    esac
  done
  if [[ -z $verb ]]; then
    words=")",
                      absl::StrJoin(verbs, " "), " ", absl::StrJoin(OptionNames(app), " "), R"("
  else
    case $verb in
)",
                      absl::StrJoin(cases, ""), R"(    esac
    if [[ -n $names && $current != -* ]]; then
      # Never as a word list: compgen would carry out what a name holds, as $(...).
      while IFS= read -r name; do
        printf -v quoted %q "$name"
        [[ $name == "$current"* || $quoted == "$current"* ]] && COMPREPLY+=("$quoted")
      done < <(sectormap "${server[@]}" info -c --noheadings --fields name --separator : 2>/dev/null)
      return
    fi
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -o default -F _sectormap sectormap
)");
}

}  // namespace sectormap::cli
