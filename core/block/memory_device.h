// SPDX-License-Identifier: Apache-2.0
// MemoryDevice: a disk of RAM, named `mem:SIZE` in tables; for tests and benchmarks. The reference
// implementation of the BlockDevice contract. Its bytes are gone with the process.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "core/block/counted_device.h"

namespace sectormap {

class MemoryDevice final : public CountedDevice {
 public:
  // Zeroed; memory is used only where something was written.
  static absl::StatusOr<std::unique_ptr<MemoryDevice>> Create(SectorCount size);
  MemoryDevice(const MemoryDevice&) = delete;
  MemoryDevice& operator=(const MemoryDevice&) = delete;

  SectorCount size() const override { return size_; }
  BlockLimits limits() const override;
  Task<IoStatus> Submit(IoRequest request) override;
  Loan Lend(Sector first, SectorCount count) override;
  bool WriteAtOnce(Sector first, std::span<const std::byte> bytes) override;

  // The whole disk, for tests that look underneath.
  std::span<std::byte> bytes() { return {bytes_.get(), Bytes(size_).value()}; }

 private:
  MemoryDevice(std::shared_ptr<std::byte> bytes, SectorCount size)
      : bytes_(std::move(bytes)), size_(size) {}

  static void Clear(std::byte* place, size_t length);

  const std::shared_ptr<std::byte> bytes_;  // loans have their part in it
  const SectorCount size_;
};

}  // namespace sectormap
