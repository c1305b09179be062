// SPDX-License-Identifier: Apache-2.0
#include "core/block/backing_source.h"

namespace sectormap {
namespace {

absl::Status NoFiles() { return absl::UnimplementedError("no files are made here"); }

}  // namespace

absl::Status BackingSource::MakeFile(std::string_view, SectorCount) { return NoFiles(); }
absl::Status BackingSource::GrowFile(std::string_view, SectorCount) { return NoFiles(); }
absl::Status BackingSource::RemoveFile(std::string_view) { return NoFiles(); }

}  // namespace sectormap
