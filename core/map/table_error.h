// SPDX-License-Identifier: Apache-2.0
// TableError: the one form in which a table is refused. The message is for a person,
// `line N: TYPE: REASON; ADVICE`; a payload of the status carries the same for programs, so that
// the control plane can fill sectormap.v1.TableViolation without reading sentences.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sectormap {

// Where the payload is found in an absl::Status. Its bytes are read by TableViolationIn() only.
inline constexpr std::string_view kTableViolationUrl = "sectormap.v1.TableViolation";

struct TableViolation {
  int line = 0;        // from 1; 0 if the table as a whole is meant
  std::string type;    // the target type's name; empty if the line has none
  std::string reason;  // the kernel's words where it has them
};

// `advice` says what to do about it and may be empty. Any thread.
absl::Status TableError(int line, std::string_view type, std::string_view reason,
                        std::string_view advice = {},
                        absl::StatusCode code = absl::StatusCode::kInvalidArgument);

// `refusal`, said by a target of its own words, put into its row. `advice` stands in if the refusal
// brings none of its own.
absl::Status TableErrorAt(int line, std::string_view type, const absl::Status& refusal,
                          std::string_view advice);

// Nothing if the status was not made by TableError().
std::optional<TableViolation> TableViolationIn(const absl::Status& status);

}  // namespace sectormap
