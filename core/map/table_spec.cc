// SPDX-License-Identifier: Apache-2.0
#include "core/map/table_spec.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_error.h"

namespace sectormap {
namespace {

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v'; }

// What may not be taken as it is in a word: blanks, `\`, `#` and NUL.
constexpr std::array<bool, 256> kSpecial = [] {
  std::array<bool, 256> special{};
  for (const unsigned char c : {' ', '\t', '\r', '\f', '\v', '\\', '#', '\0'}) special[c] = true;
  return special;
}();
size_t PlainLength(std::string_view text) {
  const auto* end =
      std::ranges::find_if(text, [](char c) { return kSpecial[static_cast<unsigned char>(c)]; });
  return static_cast<size_t>(end - text.begin());
}

// Those of a linear row.
constexpr size_t kUsualWords = 5;

bool ParseNumber(std::string_view word, uint64_t& value) {
  if (word.empty() || word[0] < '0' || word[0] > '9') return false;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  return error == std::errc() && end == word.data() + word.size();
}

absl::StatusOr<TableRow> ParseRow(std::vector<std::string> words, int line) {
  TableRow row;
  row.line = line;
  uint64_t start = 0;
  uint64_t length = 0;
  if (words.size() < 3 || !ParseNumber(words[0], start) || !ParseNumber(words[1], length)) {
    return TableError(line, "", absl::StrFormat("Invalid format on line %d", line),
                      "write `<start> <length> <target type> <arguments>`, with start and length "
                      "in sectors of 512 bytes");
  }
  row.start = Sector(start);
  row.length = SectorCount(length);
  row.type = std::move(words[2]);
  words.erase(words.begin(), words.begin() + 3);
  row.args = std::move(words);
  return row;
}

// The checks of dm_table_add_target that need no device, in its order.
absl::Status CheckRow(const TableRow& row, SectorCount end_of_previous) {
  if (row.length == SectorCount(0)) {
    return TableError(row.line, row.type, "zero-length target",
                      "give the row a length of at least one sector, or leave it out");
  }
  if (!RangeFits(row.start, row.length, kMaxDeviceSectors)) {
    return TableError(
        row.line, row.type, "too large device",
        absl::StrFormat("a device ends at sector %d at the latest", kMaxDeviceSectors.value()));
  }
  if (row.start.offset() != end_of_previous) {
    return TableError(
        row.line, row.type, "Gap in table",
        absl::StrFormat(
            "the row starts at sector %d and has to start at %d, where the %s", row.start.value(),
            end_of_previous.value(),
            end_of_previous == SectorCount(0) ? "device begins" : "row before it ends"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TableSpec> TableSpec::Parse(std::string_view text) {
  TableSpec spec;
  const auto lines = static_cast<size_t>(std::ranges::count(text, '\n')) + 1;
  spec.rows_.reserve(std::min(lines, kRowsMax));
  int line = 0;
  while (!text.empty()) {
    ++line;
    const size_t end = text.find('\n');
    const std::string_view this_line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    std::optional<std::vector<std::string>> words = SplitWords(this_line, Comments::kHash);
    if (!words.has_value()) {
      return TableError(
          line, "", "couldn't split parameters",
          "a backslash quotes the character after it, and a table holds no NUL bytes");
    }
    if (words->empty()) continue;
    if (spec.rows_.size() == kRowsMax) {
      return TableError(line, "", absl::StrFormat("a table has at most %d rows", kRowsMax),
                        "stack devices: give parts of the table names of their own");
    }
    ASSIGN_OR_RETURN(TableRow row, ParseRow(*std::move(words), line));
    RETURN_IF_ERROR(CheckRow(row, spec.size()));
    spec.rows_.push_back(std::move(row));
  }
  return spec;
}

SectorCount TableSpec::size() const {
  return rows_.empty() ? SectorCount(0) : (rows_.back().start + rows_.back().length).offset();
}

std::string TableSpec::ToText() const {
  std::string text;
  for (const TableRow& row : rows_) {
    std::string args;
    for (const std::string& word : row.args) {
      absl::StrAppend(&args, args.empty() ? "" : " ", QuoteWord(word));
    }
    absl::StrAppend(&text, FormatRow(row.start, row.length, QuoteWord(row.type), args), "\n");
  }
  return text;
}

std::string FormatRow(Sector start, SectorCount length, std::string_view type,
                      std::string_view args) {
  return absl::StrCat(start.value(), " ", length.value(), " ", Absl(type), " ", Absl(args));
}

std::optional<std::vector<std::string>> SplitWords(std::string_view text, Comments comments) {
  std::vector<std::string> words;
  words.reserve(kUsualWords);
  bool in_word = false;
  const auto take = [&](std::string_view part) {
    if (in_word) {
      words.back().append(part);
    } else {
      words.emplace_back(part);
    }
    in_word = true;
  };
  while (!text.empty()) {
    if (const size_t plain = PlainLength(text); plain != 0) {
      take(text.substr(0, plain));
      text.remove_prefix(plain);
      continue;
    }
    if (text[0] == '#' && comments == Comments::kHash) break;
    if (IsBlank(text[0])) {
      in_word = false;
    } else {
      if (text[0] == '\\') text.remove_prefix(1);
      if (text.empty() || text[0] == '\0') return std::nullopt;
      take(text.substr(0, 1));
    }
    text.remove_prefix(1);
  }
  return words;
}

std::string QuoteWord(std::string_view word) {
  std::string quoted;
  quoted.reserve(word.size());
  while (!word.empty()) {
    const size_t plain = PlainLength(word);
    quoted.append(word.substr(0, plain));
    word.remove_prefix(plain);
    if (word.empty()) break;
    quoted.push_back('\\');
    quoted.push_back(word[0]);
    word.remove_prefix(1);
  }
  return quoted;
}

}  // namespace sectormap
