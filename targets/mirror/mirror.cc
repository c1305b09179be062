// SPDX-License-Identifier: Apache-2.0
// mirror: the same data on two to nine devices (drivers/md/dm-raid1.c, dm-log.c).
//   core <1|2> <region sectors> [sync|nosync]                |
//   disk <2|3> <log device> <region sectors> [sync|nosync]
//     <#legs> [<device> <first sector>]{2..9} [<#features> [handle_errors] [keep_log]]
#include <bit>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_error.h"
#include "core/map/target.h"
#include "targets/builtin_targets.h"
#include "targets/mirror/mirror_target.h"

namespace sectormap::targets {
namespace {

// Four bytes of memory for each: half a gigabyte. The kernel's bound is 2^32.
constexpr uint64_t kRegionsMax = uint64_t{1} << 27;

// The kernel says no more than this to the caller; what it writes to its log is the advice here.
absl::Status LogError(std::string_view why,
                      absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  return TableError(0, "", "Error creating mirror dirty log", why, code);
}

absl::StatusOr<SectorCount> ReadRegionSize(TargetArgs& args) {
  ASSIGN_OR_RETURN(const std::string_view word, args.Word("Insufficient mirror log arguments"));
  const uint64_t length = args.length().value();
  uint64_t size = 0;
  const char* end = word.data() + word.size();
  const auto [rest, problem] = std::from_chars(word.data(), end, size);
  const bool number = problem == std::errc() && rest == end;
  if (!number || size < 2 || size > length || !std::has_single_bit(size) || size > UINT32_MAX) {
    return LogError(absl::StrCat("invalid region size ", Absl(word),
                                 "; it is a power of two from 2 to the row's length"));
  }
  if (length / size >= kRegionsMax) {
    return LogError(absl::StrCat("region count exceeds limit; use regions of at least ",
                                 std::bit_ceil(length / kRegionsMax + 1), " sectors"));
  }
  return SectorCount(size);
}

absl::StatusOr<DeviceRef> ReadLogDevice(TargetArgs& args) {
  absl::StatusOr<DeviceRef> device = args.Device("log device lookup failed");
  if (device.ok()) return device;
  return LogError(std::string(device.status().message()), device.status().code());
}

absl::Status CheckLogFits(const DeviceRef& log, uint64_t regions) {
  const ByteCount need = LogImage::SizeFor(regions, log.device->limits().logical_block_bytes);
  if (WholeSectors(need) <= log.device->size()) return absl::OkStatus();
  return LogError(
      absl::StrCat("log device ", log.name(), " too small: need ", need.value(), " bytes"));
}

// The words up to the number of legs.
absl::Status ReadLog(TargetArgs& args, MirrorOptions& options) {
  constexpr std::string_view kFewWords = "Insufficient mirror log arguments";
  if (args.left() < 2) return absl::InvalidArgumentError(Absl(kFewWords));
  ASSIGN_OR_RETURN(const std::string_view type, args.Word(kFewWords));
  ASSIGN_OR_RETURN(const uint64_t words, args.Number("Invalid mirror log argument count"));
  if (words > args.left()) return absl::InvalidArgumentError(Absl(kFewWords));
  const bool disk = type == "disk";
  if (!disk && type != "core") {
    return LogError(absl::StrCat("Module for logging type \"", Absl(type), "\" not found"));
  }
  const uint64_t least = disk ? 2 : 1;
  if (words < least || words > least + 1) {
    return LogError(disk ? "wrong number of arguments to disk dirty region log"
                         : "wrong number of arguments to dirty region log");
  }
  if (disk) {
    ASSIGN_OR_RETURN(options.log, ReadLogDevice(args));
  }
  ASSIGN_OR_RETURN(options.region_size, ReadRegionSize(args));
  if (words > least) {
    ASSIGN_OR_RETURN(const std::string_view word, args.Word(kFewWords));
    if (word != "sync" && word != "nosync") {
      return LogError(absl::StrCat("unrecognised sync argument to dirty region log: ", Absl(word)));
    }
    options.sync = word == "sync" ? MirrorOptions::Sync::kSync : MirrorOptions::Sync::kNoSync;
  }
  if (!disk) return absl::OkStatus();
  const uint64_t size = options.region_size.value();
  return CheckLogFits(*options.log, (args.length().value() + size - 1) / size);
}

absl::StatusOr<std::vector<Legs::Leg>> ReadLegs(TargetArgs& args) {
  constexpr std::string_view kBadCount = "Invalid number of mirrors";
  ASSIGN_OR_RETURN(const uint64_t count, args.Number(kBadCount));
  if (count < 2 || count > kLegsMax) return absl::InvalidArgumentError(Absl(kBadCount));
  if (args.left() < 2 * count) return absl::InvalidArgumentError("Too few mirror arguments");
  std::vector<Legs::Leg> legs;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(DeviceRef device, args.Device("Device lookup failure"));
    ASSIGN_OR_RETURN(const Sector start, args.Place("Invalid offset"));
    RETURN_IF_ERROR(CheckFits(device, start, args.length()));
    legs.push_back({std::move(device), start});
  }
  return legs;
}

absl::Status ReadFeatures(TargetArgs& args, MirrorOptions& options) {
  if (args.left() == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const uint64_t count, args.Number("Invalid number of features"));
  if (count > args.left()) {
    return absl::InvalidArgumentError("Not enough arguments to support feature count");
  }
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const std::string_view word, args.Word("Unrecognised feature requested"));
    if (word == "handle_errors") {
      options.handle_errors = true;
    } else if (word == "keep_log") {
      options.keep_log = true;
    } else {
      return absl::InvalidArgumentError("Unrecognised feature requested");
    }
  }
  if (options.keep_log && !options.handle_errors) {
    return absl::InvalidArgumentError("keep_log feature requires the handle_errors feature");
  }
  if (args.left() != 0) return absl::InvalidArgumentError("Too many mirror arguments");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  MirrorOptions options;
  options.read_only = args.read_only();
  RETURN_IF_ERROR(ReadLog(args, options));
  ASSIGN_OR_RETURN(std::vector<Legs::Leg> legs, ReadLegs(args));
  RETURN_IF_ERROR(ReadFeatures(args, options));
  return std::make_unique<MirrorTarget>(args.length(), std::move(legs), std::move(options),
                                        args.host());
}

}  // namespace

const TargetType kMirrorTarget{
    .name = "mirror",
    .version = "1.14.0",
    .usage =
        "core <1|2> <region sectors> [sync|nosync] | disk <2|3> <log device> "
        "<region sectors> [sync|nosync] <#legs> [<device> <first sector>]{2..9} "
        "[<#features> [handle_errors] [keep_log]]",
    .summary = "keeps the same data on two to nine devices",
    .create = Create,
};

}  // namespace sectormap::targets
