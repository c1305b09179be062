// SPDX-License-Identifier: Apache-2.0
// The operations' names in the API, in metrics and in what the command line prints.
#pragma once

#include <string_view>

#include "core/block/io_request.h"

namespace sectormap {

constexpr std::string_view NameOf(IoOp op) {
  switch (op) {
    case IoOp::kRead:
      return "read";
    case IoOp::kWrite:
      return "write";
    case IoOp::kFlush:
      return "flush";
    case IoOp::kDiscard:
      return "discard";
    case IoOp::kWriteZeroes:
      return "write_zeroes";
  }
  return "";
}

}  // namespace sectormap
