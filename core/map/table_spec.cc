// SPDX-License-Identifier: Apache-2.0
#include "core/map/table_spec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/huge_pages.h"
#include "core/base/status_macros.h"
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

constexpr uint64_t InEachByte(unsigned char byte) { return byte * 0x0101'0101'0101'0101u; }

// How many of the first eight bytes are surely not special: those before the first that is `#`, `\`
// or not above the blank. In each byte the top bit tells; what a borrow sets wrongly is behind the
// first that is right.
size_t PlainOfEight(const char* text) {
  uint64_t bytes;
  std::memcpy(&bytes, text, sizeof(bytes));
  if constexpr (std::endian::native == std::endian::big) bytes = __builtin_bswap64(bytes);
  const uint64_t hash = bytes ^ InEachByte('#');
  const uint64_t backslash = bytes ^ InEachByte('\\');
  const uint64_t found = ((bytes - InEachByte(' ' + 1)) & ~bytes) |
                         ((hash - InEachByte(1)) & ~hash) |
                         ((backslash - InEachByte(1)) & ~backslash);
  return static_cast<size_t>(std::countr_zero(found & InEachByte(0x80))) / 8;
}

size_t PlainLength(std::string_view text) {
  size_t length = 0;
  while (text.size() - length >= sizeof(uint64_t)) {
    const size_t plain = PlainOfEight(text.data() + length);
    length += plain;
    if (plain == sizeof(uint64_t)) continue;
    if (kSpecial[static_cast<unsigned char>(text[length])]) return length;
    ++length;  // a control character that a word may hold
  }
  while (length < text.size() && !kSpecial[static_cast<unsigned char>(text[length])]) ++length;
  return length;
}

constexpr size_t kDigitsMax = std::numeric_limits<uint64_t>::digits10 + 1;

// Returns where it ends. REQUIRES: room for kDigitsMax.
char* PutNumber(uint64_t value, char* to) { return std::to_chars(to, to + kDigitsMax, value).ptr; }

bool ParseNumber(std::string_view word, uint64_t& value) {
  if (word.empty() || word[0] < '0' || word[0] > '9') return false;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  return error == std::errc() && end == word.data() + word.size();
}

// What a row begins with, as it stands in the text.
struct RowHead {
  std::string_view start;
  std::string_view length;
  std::string_view type;
  std::string_view text;  // from the type on
};

// Nothing if the line cannot be split. The rest of it is looked at only if `all` says so.
std::optional<RowHead> SplitHead(WordSplitter& splitter, std::string_view line, bool all) {
  RowHead head;
  splitter.Begin(line, Comments::kHash);
  for (std::string_view* word : {&head.start, &head.length, &head.type}) {
    if (word == &head.type) head.text = splitter.rest();
    const std::optional<std::string_view> next = splitter.Next();
    if (!next.has_value()) return std::nullopt;
    *word = *next;
  }
  for (bool more = all; more;) {
    const std::optional<std::string_view> next = splitter.Next();
    if (!next.has_value()) return std::nullopt;
    more = !next->empty();
  }
  return head;
}

absl::StatusOr<TableSpec::Line> ParseLine(const RowHead& head, int number) {
  uint64_t start = 0;
  uint64_t length = 0;
  if (head.type.empty() || !ParseNumber(head.start, start) || !ParseNumber(head.length, length)) {
    return TableError(number, "", absl::StrFormat("Invalid format on line %d", number),
                      "write `<start> <length> <target type> <arguments>`, with start and length "
                      "in sectors of 512 bytes");
  }
  return TableSpec::Line{
      .start = Sector(start), .length = SectorCount(length), .text = head.text, .number = number};
}

// The checks of dm_table_add_target that need no device, in its order.
absl::Status CheckLine(const TableSpec::Line& line, std::string_view type,
                       SectorCount end_of_previous) {
  if (line.length == SectorCount(0)) {
    return TableError(line.number, type, "zero-length target",
                      "give the row a length of at least one sector, or leave it out");
  }
  if (!RangeFits(line.start, line.length, kMaxDeviceSectors)) {
    return TableError(
        line.number, type, "too large device",
        absl::StrFormat("a device ends at sector %d at the latest", kMaxDeviceSectors.value()));
  }
  if (line.start.offset() != end_of_previous) {
    return TableError(
        line.number, type, "Gap in table",
        absl::StrFormat(
            "the row starts at sector %d and has to start at %d, where the %s", line.start.value(),
            end_of_previous.value(),
            end_of_previous == SectorCount(0) ? "device begins" : "row before it ends"));
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<std::span<const std::string_view>> WordSplitter::Split(std::string_view text,
                                                                     Comments comments) {
  words_.clear();
  Begin(text, comments);
  for (;;) {
    const std::optional<std::string_view> word = Next();
    if (!word.has_value()) return std::nullopt;
    if (word->empty()) return words_;
    words_.push_back(*word);
  }
}

void WordSplitter::Begin(std::string_view text, Comments comments) {
  rest_ = text;
  comments_ = comments;
  unquoted_.clear();
}

std::optional<std::string_view> WordSplitter::Next() {
  while (!rest_.empty() && IsBlank(rest_[0])) rest_.remove_prefix(1);
  if (!rest_.empty() && rest_[0] == '#' && comments_ == Comments::kHash) rest_ = {};
  const size_t plain = PlainLength(rest_);
  if (plain < rest_.size() && !IsBlank(rest_[plain])) return TakeQuoted();
  return std::exchange(rest_, rest_.substr(plain)).substr(0, plain);
}

// REQUIRES: a word begins with the rest.
std::optional<std::string_view> WordSplitter::TakeQuoted() {
  // Never longer than the text, so it stays where the words before this one are.
  if (unquoted_.empty()) unquoted_.reserve(rest_.size());
  const size_t begin = unquoted_.size();
  while (!rest_.empty() && !IsBlank(rest_[0])) {
    size_t plain = PlainLength(rest_);
    if (plain == 0) {
      if (rest_[0] == '#' && comments_ == Comments::kHash) break;
      if (rest_[0] == '\\') rest_.remove_prefix(1);
      if (rest_.empty() || rest_[0] == '\0') return std::nullopt;
      plain = 1;
    }
    unquoted_.append(rest_.substr(0, plain));
    rest_.remove_prefix(plain);
  }
  return std::string_view(unquoted_).substr(begin);
}

absl::StatusOr<TableSpec> TableSpec::Parse(std::string_view text) {
  TableSpec spec;
  spec.text_ = std::make_shared<const std::string>(text);
  std::string_view rest = *spec.text_;
  const auto lines = static_cast<size_t>(std::ranges::count(rest, '\n')) + 1;
  spec.lines_.reserve(std::min(lines, kRowsMax));
  PreferHugePages(spec.lines_);
  // Nothing can be wrong with how a row splits in a text without these.
  const bool all_split = rest.find('\\') == rest.npos && rest.find('\0') == rest.npos;
  WordSplitter splitter;
  int number = 0;
  while (!rest.empty()) {
    ++number;
    const size_t end = rest.find('\n');
    const std::string_view this_line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    const std::optional<RowHead> head = SplitHead(splitter, this_line, !all_split);
    if (!head.has_value()) {
      return TableError(
          number, "", "couldn't split parameters",
          "a backslash quotes the character after it, and a table holds no NUL bytes");
    }
    if (head->start.empty()) continue;
    if (spec.lines_.size() == kRowsMax) {
      return TableError(number, "", absl::StrFormat("a table has at most %d rows", kRowsMax),
                        "stack devices: give parts of the table names of their own");
    }
    ASSIGN_OR_RETURN(const Line line, ParseLine(*head, number));
    RETURN_IF_ERROR(CheckLine(line, head->type, spec.size()));
    spec.lines_.push_back(line);
  }
  return spec;
}

SectorCount TableSpec::size() const {
  return lines_.empty() ? SectorCount(0) : (lines_.back().start + lines_.back().length).offset();
}

TableSpec::Line::Words TableSpec::Line::Split(WordSplitter& splitter) const {
  const auto words = *splitter.Split(text, Comments::kHash);  // it could when it was parsed
  return {words.front(), words.subspan(1)};
}

std::vector<TableRow> TableSpec::Rows() const {
  std::vector<TableRow> rows;
  rows.reserve(lines_.size());
  WordSplitter splitter;
  for (const Line& line : lines_) {
    const auto [type, args] = line.Split(splitter);
    rows.push_back({.line = line.number,
                    .start = line.start,
                    .length = line.length,
                    .type = std::string(type),
                    .args = {args.begin(), args.end()}});
  }
  return rows;
}

std::string TableSpec::ToText() const {
  std::string text;
  WordSplitter splitter;
  for (const Line& line : lines_) {
    const auto [type, args] = line.Split(splitter);
    std::string quoted;
    for (const std::string_view word : args) {
      absl::StrAppend(&quoted, quoted.empty() ? "" : " ", QuoteWord(word));
    }
    absl::StrAppend(&text, FormatRow(line.start, line.length, QuoteWord(type), quoted), "\n");
  }
  return text;
}

std::string FormatRow(Sector start, SectorCount length, std::string_view type,
                      std::string_view args) {
  std::string text;
  AppendRowHead(start, length, type, text);
  return text.append(args);
}

void AppendRowHead(Sector start, SectorCount length, std::string_view type, std::string& text) {
  // One piece instead of four: a table has a million rows.
  std::array<char, 2 * (kDigitsMax + 1)> numbers;
  char* end = PutNumber(start.value(), numbers.data());
  *end++ = ' ';
  end = PutNumber(length.value(), end);
  *end++ = ' ';
  text.append(numbers.data(), end);
  text += type;
  text += ' ';
}

void AppendNumber(uint64_t value, std::string& text) {
  std::array<char, kDigitsMax> digits;
  text.append(digits.data(), PutNumber(value, digits.data()));
}

std::optional<std::vector<std::string>> SplitWords(std::string_view text, Comments comments) {
  WordSplitter splitter;
  const auto words = splitter.Split(text, comments);
  if (!words.has_value()) return std::nullopt;
  return std::vector<std::string>(words->begin(), words->end());
}

std::string QuoteWord(std::string_view word) {
  std::string quoted;
  quoted.reserve(word.size());
  AppendQuoted(word, quoted);
  return quoted;
}

void AppendQuoted(std::string_view word, std::string& text) {
  while (true) {
    const size_t plain = PlainLength(word);
    text.append(word.substr(0, plain));
    word.remove_prefix(plain);
    if (word.empty()) return;
    text.push_back('\\');
    text.push_back(word[0]);
    word.remove_prefix(1);
  }
}

}  // namespace sectormap
