// SPDX-License-Identifier: Apache-2.0
// The words of a table row after the target type, read from left to right with the kernel's error
// texts: the caller gives the text that its target uses for a word that is missing or malformed.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/base/units.h"
#include "core/map/device_resolver.h"
#include "core/map/target_host.h"

namespace sectormap {

class TargetArgs {
 public:
  // `length` is the row's; `read_only` the table's. Borrows `words`, what they view, `devices` and
  // `host`.
  TargetArgs(std::span<const std::string_view> words, SectorCount length, bool read_only,
             DeviceResolver& devices, TargetHost& host, bool restored = false)
      : words_(words),
        length_(length),
        read_only_(read_only),
        devices_(devices),
        host_(host),
        restored_(restored) {}

  size_t left() const { return words_.size(); }
  SectorCount length() const { return length_; }
  bool read_only() const { return read_only_; }
  // True: the table was live before the daemon was started. What such a row had in memory only is
  // lost.
  bool restored() const { return restored_; }
  // The mapped device; outlives the target.
  TargetHost& host() const { return host_; }

  // Each takes one word; `error` is the text of the refusal (InvalidArgument).
  // The word is there as long as what the row was made from: until Create returns.
  absl::StatusOr<std::string_view> Word(std::string_view error);
  // Decimal digits only, as the kernel's "%llu then nothing".
  absl::StatusOr<uint64_t> Number(std::string_view error);
  absl::StatusOr<Sector> Place(std::string_view error);

  // Takes a device name and opens it: for reading if the table is read-only, else for both. The
  // refusal says `error` and why the device cannot be had.
  absl::StatusOr<DeviceRef> Device(std::string_view error);
  // For both, whatever the table is: the target itself writes to it. FailedPrecondition: a mapped
  // device that is read-only.
  absl::StatusOr<DeviceRef> WritableDevice(std::string_view error);

 private:
  absl::StatusOr<DeviceRef> Open(std::string_view error, OpenMode mode);

  std::span<const std::string_view> words_;
  const SectorCount length_;
  const bool read_only_;
  DeviceResolver& devices_;
  TargetHost& host_;
  const bool restored_;
};

// Refuses a row that reaches past the end of its device, in the kernel's words (dm_table.c,
// device_area_is_invalid): `<name> too small for target: start=S, len=L, dev_size=D`.
absl::Status CheckFits(const DeviceRef& device, Sector start, SectorCount length);

}  // namespace sectormap
