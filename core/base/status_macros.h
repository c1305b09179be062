// SPDX-License-Identifier: Apache-2.0
// The two macros that absl does not export.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expression)                           \
  do {                                                        \
    if (absl::Status status_ = (expression); !status_.ok()) { \
      return status_;                                         \
    }                                                         \
  } while (false)

#define SECTORMAP_CONCAT_INNER(a, b) a##b
#define SECTORMAP_CONCAT(a, b) SECTORMAP_CONCAT_INNER(a, b)

// ASSIGN_OR_RETURN(auto table, Build(rows));
#define ASSIGN_OR_RETURN(declaration, expression)                   \
  auto SECTORMAP_CONCAT(result_, __LINE__) = (expression);          \
  if (!SECTORMAP_CONCAT(result_, __LINE__).ok()) {                  \
    return std::move(SECTORMAP_CONCAT(result_, __LINE__)).status(); \
  }                                                                 \
  declaration = *std::move(SECTORMAP_CONCAT(result_, __LINE__))
