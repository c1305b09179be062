// SPDX-License-Identifier: Apache-2.0
#include "cli/completion.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace sectormap::cli {
namespace {

// Verbs without a group are hidden.
std::vector<const CLI::App*> ShownVerbs(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* verb) { return !verb->get_group().empty(); });
}

std::vector<std::string> NamesOf(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  return names;
}

// What may follow the command or one of its verbs.
std::string WordsAfter(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::App* verb : ShownVerbs(app)) words.push_back(verb->get_name());
  for (const CLI::Option* option : app.get_options()) {
    for (std::string& name : NamesOf(*option)) words.push_back(std::move(name));
  }
  return absl::StrJoin(words, " ");
}

// True if its first word is the name of a device that exists.
bool TakesDevice(const CLI::App& verb) {
  return verb.get_name() != "create" && verb.get_option_no_throw("name") != nullptr;
}

// What to do for the value of an option. CLI11 writes choices as {one,another}; where there are
// none bash offers files.
std::string WaysToValue(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  if (type == kDeviceType) return "names=1";
  const size_t first = type.find('{');
  if (first == std::string::npos) return "return";
  const std::string choices = type.substr(first + 1, type.find('}') - first - 1);
  return absl::StrCat("words=\"", absl::StrReplaceAll(choices, {{",", " "}}), "\" names=");
}

// Of the script's `case` statements.
struct Arms {
  std::string verbs;   // by the verb: what follows it
  std::string values;  // by the verb and the word before: what follows an option that takes a value
};

// `typed` are the shell patterns for the verb itself.
void AddValues(const std::vector<std::string>& typed, const CLI::App& app, Arms& arms) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_items_expected_max() == 0) continue;  // a flag
    std::vector<std::string> patterns;
    for (const std::string& verb : typed) {
      for (const std::string& name : NamesOf(*option)) {
        patterns.push_back(absl::StrCat(verb, "\" ", name, "\""));
      }
    }
    if (patterns.empty()) continue;  // goes by its place alone
    absl::StrAppend(&arms.values, "    ", absl::StrJoin(patterns, " | "), ") ",
                    WaysToValue(*option), " ;;\n");
  }
}

// `parent` is the verb that stands before, with a space, or empty.
void AddVerb(const std::string& parent, const CLI::App& verb, Arms& arms) {
  std::vector<std::string> typed = {absl::StrCat("\"", parent, verb.get_name(), "\"")};
  for (const std::string& alias : verb.get_aliases()) {
    typed.push_back(absl::StrCat("\"", parent, alias, "\""));
  }
  absl::StrAppend(&arms.verbs, "    ", absl::StrJoin(typed, " | "), ") words=\"", WordsAfter(verb),
                  "\" names=", TakesDevice(verb) ? "1" : "", " ;;\n");
  AddValues(typed, verb, arms);
  for (const CLI::App* below : ShownVerbs(verb)) AddVerb(verb.get_name() + " ", *below, arms);
}

}  // namespace

std::string BashCompletion(const CLI::App& app) {
  Arms arms;
  std::vector<std::string> parents;
  for (const CLI::App* verb : ShownVerbs(app)) {
    AddVerb("", *verb, arms);
    if (!ShownVerbs(*verb).empty()) parents.push_back(verb->get_name());
  }
  AddValues({"*"}, app, arms);
  // The server given before the verb is asked for the names.
  return absl::StrCat(R"(# bash completion for sectormap: source <(sectormap completion bash)
_sectormap() {
  local current=${COMP_WORDS[COMP_CWORD]} typed=() joined= before= verb= words= names= name quoted
  local server=() i
  COMPREPLY=()
  # bash takes --server=tcp:HOST:PORT for six words.
  for ((i = 1; i <= COMP_CWORD; i++)); do
    name=${COMP_WORDS[i]}
    if [[ ${#typed[@]} -gt 0 && ( -n $joined || $name == [:=]* ) ]]; then
      typed[-1]+=$name
    else
      typed+=("$name")
    fi
    if [[ $name == *[:=] ]]; then joined=1; else joined=; fi
  done
  if [[ ${typed[-1]} == --*=* ]]; then
    before=${typed[-1]%%=*}
    [[ $current == = ]] && current=
  elif [[ ${#typed[@]} -gt 1 ]]; then
    before=${typed[-2]}
  fi
  for ((i = 0; i < ${#typed[@]} - 1; i++)); do
    case ${typed[i]} in
      --server) server=(--server "${typed[i + 1]}"); ((i++)) ;;
      --server=*) server=("${typed[i]}") ;;
      -o | --output) ((i++)) ;;
      -*) ;;
      *)
        verb+=${verb:+ }${typed[i]}
        case $verb in )",
                      absl::StrJoin(parents, " | "), R"() ;; *) break ;; esac
        ;;
    esac
  done
  case $verb in
    "") words=")",
                      WordsAfter(app), R"(" ;;
)",
                      arms.verbs, R"(  esac
  case "$verb $before" in
)",
                      arms.values, R"(  esac
  if [[ -n $names && $current != -* ]]; then
    # Never as a word list: compgen would carry out what a name holds, as $(...).
    while IFS= read -r name; do
      printf -v quoted %q "$name"
      [[ $name == "$current"* || $quoted == "$current"* ]] && COMPREPLY+=("$quoted")
    done < <(sectormap "${server[@]}" info -c --noheadings --fields name --separator : 2>/dev/null)
    return
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -o default -F _sectormap sectormap
)");
}

}  // namespace sectormap::cli
