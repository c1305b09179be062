// SPDX-License-Identifier: Apache-2.0
// TableSpec: a mapping table as text, in dmsetup's grammar, parsed into rows that are in order and
// leave no gap. No device is opened here.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/units.h"

namespace sectormap {

struct TableRow {
  int line = 0;  // in the text it came from, from 1
  Sector start;
  SectorCount length;
  std::string type;
  std::vector<std::string> args;
};

class TableSpec {
 public:
  // The kernel's DM_MAX_TARGETS; above it a table is refused before anything is allocated for it.
  static constexpr size_t kRowsMax = 1'048'576;

  // `<start> <length> <type> <args...>` per line; blank lines and `#` comments are skipped; `\`
  // quotes the next character. Refuses, naming the line and the type: bad numbers (`Invalid format
  // on line N`), `zero-length target`, `too large device`, `Gap in table` (also for an overlap,
  // with the place where the row has to start).
  static absl::StatusOr<TableSpec> Parse(std::string_view text);

  std::span<const TableRow> rows() const { return rows_; }
  bool empty() const { return rows_.empty(); }
  SectorCount size() const;

  // What Parse reads back as the same rows.
  std::string ToText() const;

 private:
  std::vector<TableRow> rows_;
};

// `<start> <length> <type> <args>`, as `dmsetup table` and `dmsetup status` print a row: with the
// blank after the type also where no arguments follow.
std::string FormatRow(Sector start, SectorCount length, std::string_view type,
                      std::string_view args);

// The words of one line or message: blanks part them, `\` takes the next character as it is
// (dm-table.c, dm_split_args). Nothing if the text ends in a backslash or holds a NUL.
enum class Comments { kNone, kHash };  // kHash: an unquoted `#` ends the text, as in dmsetup
std::optional<std::vector<std::string>> SplitWords(std::string_view text, Comments comments);

// A word as it must be written in a table to be read back: quotes blanks, `\` and `#`.
std::string QuoteWord(std::string_view word);

}  // namespace sectormap
