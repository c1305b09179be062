// SPDX-License-Identifier: Apache-2.0
#include "core/map/target_args.h"

#include <charconv>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/mapped_device.h"
#include "core/map/table_error.h"

namespace sectormap {

absl::StatusOr<std::string_view> TargetArgs::Word(std::string_view error) {
  if (words_.empty()) return TableError(0, "", error);
  const std::string_view word = words_.front();
  words_ = words_.subspan(1);
  return word;
}

absl::StatusOr<uint64_t> TargetArgs::Number(std::string_view error) {
  ASSIGN_OR_RETURN(const std::string_view word, Word(error));
  uint64_t value = 0;
  const char* end = word.data() + word.size();
  const auto [rest, problem] = std::from_chars(word.data(), end, value);
  if (problem != std::errc() || rest != end) {
    return TableError(0, "", error,
                      absl::StrCat("'", Absl(word), "' is not a decimal number of 0 or more"));
  }
  return value;
}

absl::StatusOr<Sector> TargetArgs::Place(std::string_view error) {
  ASSIGN_OR_RETURN(const uint64_t value, Number(error));
  return Sector(value);
}

absl::StatusOr<DeviceRef> TargetArgs::Device(std::string_view error) {
  return Open(error, read_only_ ? OpenMode::kReadOnly : OpenMode::kReadWrite);
}

absl::StatusOr<DeviceRef> TargetArgs::WritableDevice(std::string_view error) {
  ASSIGN_OR_RETURN(DeviceRef device, Open(error, OpenMode::kReadWrite));
  const auto* mapped = dynamic_cast<const MappedDevice*>(device.device.get());
  if (mapped == nullptr || !mapped->read_only()) return device;
  return TableError(0, "", error, absl::StrCat("'", device.name(), "' is read-only"),
                    absl::StatusCode::kFailedPrecondition);
}

absl::StatusOr<DeviceRef> TargetArgs::Open(std::string_view error, OpenMode mode) {
  ASSIGN_OR_RETURN(const std::string_view name, Word(error));
  absl::StatusOr<DeviceRef> device = devices_.Open(name, mode);
  if (!device.ok()) {
    const absl::Status& why = device.status();
    return TableError(0, "", error, std::string(why.message()), why.code());
  }
  return device;
}

absl::Status CheckFits(const DeviceRef& device, Sector start, SectorCount length) {
  const SectorCount size = device.device->size();
  if (!RangeFits(start, length, size)) {
    const std::string reason =
        absl::StrCat(device.name(), " too small for target: start=", start.value(),
                     ", len=", length.value(), ", dev_size=", size.value());
    if (start.offset() >= size)
      return TableError(0, "", reason, "the start is past its last sector");
    return TableError(
        0, "", reason,
        absl::StrCat("the largest length that fits there is ", (size - start.offset()).value()));
  }
  const uint32_t block_bytes = device.device->limits().logical_block_bytes;
  const uint64_t block_sectors = WholeSectors(ByteCount(block_bytes)).value();
  if (block_sectors <= 1) return absl::OkStatus();
  const std::string_view wrong = start.value() % block_sectors != 0    ? "start"
                                 : length.value() % block_sectors != 0 ? "len"
                                                                       : "";
  if (wrong.empty()) return absl::OkStatus();
  return TableError(
      0, "",
      absl::StrCat(Absl(wrong), "=", wrong == "start" ? start.value() : length.value(),
                   " not aligned to h/w logical block size ", block_bytes, " of ", device.name()),
      absl::StrCat("use a multiple of ", block_sectors, " sectors"));
}

}  // namespace sectormap
