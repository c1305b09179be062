// SPDX-License-Identifier: Apache-2.0
// What the reactors and the build say of themselves.
#pragma once

#include <string_view>

#include "core/async/reactor_pool.h"
#include "server/metrics/families.h"

namespace sectormap::metrics {

void AddBuildFamilies(std::string_view version, Families& families);

// Any thread.
void AddReactorFamilies(ReactorPool& reactors, Families& families);

}  // namespace sectormap::metrics
