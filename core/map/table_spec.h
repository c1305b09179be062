// SPDX-License-Identifier: Apache-2.0
// TableSpec: a mapping table as text, in dmsetup's grammar, found to be rows that are in order and
// leave no gap. No device is opened here.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/units.h"

namespace sectormap {

// A row with words of its own, for who changes tables.
struct TableRow {
  int line = 0;  // in the text it came from, from 1
  Sector start;
  SectorCount length;
  std::string type;
  std::vector<std::string> args;
};

// What ends the words: the end of the text, or in a table also an unquoted `#`.
enum class Comments { kNone, kHash };

// Takes one line or message after the other apart, in memory that it uses again: a table has a
// million lines.
class WordSplitter {
 public:
  // Blanks part the words, `\` takes the next character as it is (dm-table.c, dm_split_args).
  // Nothing if the text ends in a backslash or holds a NUL. The words are there until the next call
  // and as long as `text`.
  std::optional<std::span<const std::string_view>> Split(std::string_view text, Comments comments);

  // The same word by word: after Begin() each Next() gives one, an empty one when there is none
  // left, and rest() what follows it.
  void Begin(std::string_view text, Comments comments);
  std::optional<std::string_view> Next();
  std::string_view rest() const { return rest_; }

 private:
  std::optional<std::string_view> TakeQuoted();

  std::string_view rest_;
  Comments comments_ = Comments::kNone;
  std::vector<std::string_view> words_;
  std::string unquoted_;  // the words that do not stand in the text as they are
};

class TableSpec {
 public:
  // The kernel's DM_MAX_TARGETS; above it a table is refused before anything is allocated for it.
  static constexpr size_t kRowsMax = 1'048'576;

  // One row: its numbers, and where the rest stands. Lives as long as the spec or a copy of it.
  struct Line {
    Sector start;
    SectorCount length;
    std::string_view text;  // from the type on
    int number = 0;         // in the spec's text, from 1

    // Until the splitter's next call.
    struct Words {
      std::string_view type;
      std::span<const std::string_view> args;
    };
    Words Split(WordSplitter& splitter) const;
  };

  // `<start> <length> <type> <args...>` per line; blank lines and `#` comments are skipped; `\`
  // quotes the next character. Refuses, naming the line and the type: bad numbers (`Invalid format
  // on line N`), `zero-length target`, `too large device`, `Gap in table` (also for an overlap,
  // with the place where the row has to start). The text is copied.
  static absl::StatusOr<TableSpec> Parse(std::string_view text);

  std::span<const Line> lines() const { return lines_; }
  bool empty() const { return lines_.empty(); }
  SectorCount size() const;

  // Copies of all rows.
  std::vector<TableRow> Rows() const;
  // What Parse reads back as the same rows.
  std::string ToText() const;

 private:
  std::shared_ptr<const std::string> text_;  // shared, so that it stays where the lines are
  std::vector<Line> lines_;
};

// `<start> <length> <type> <args>`, as `dmsetup table` and `dmsetup status` print a row: with the
// blank after the type also where no arguments follow.
std::string FormatRow(Sector start, SectorCount length, std::string_view type,
                      std::string_view args);
// The same up to the arguments, at the end of `text`: a table has a million rows.
void AppendRowHead(Sector start, SectorCount length, std::string_view type, std::string& text);
void AppendNumber(uint64_t value, std::string& text);

// WordSplitter's words as copies.
std::optional<std::vector<std::string>> SplitWords(std::string_view text, Comments comments);

// A word as it must be written in a table to be read back: quotes blanks, `\` and `#`.
std::string QuoteWord(std::string_view word);
void AppendQuoted(std::string_view word, std::string& text);

}  // namespace sectormap
