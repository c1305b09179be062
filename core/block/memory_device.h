// SPDX-License-Identifier: Apache-2.0
// MemoryDevice: a disk of RAM, named `mem:SIZE` in tables; for tests and benchmarks. The reference
// implementation of the BlockDevice contract. Its bytes are gone with the process.
//
// A large one lies in huge pages, where the kernel has them. To zero one takes the kernel 0.1 ms,
// and some ms in a virtual machine whose host has yet to find the memory. So a write to one in
// which nothing has been written yet waits until a worker of the ring has touched it; the reactor
// goes on.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/huge_pages.h"
#include "core/block/counted_device.h"
#include "core/block/range_lock.h"
#include "core/block/write_turns.h"

namespace sectormap {

// From this size on a device lies in huge pages. A smaller one gains little, and kHugePageBytes are
// much of it.
inline constexpr uint64_t kHugePagesFromBytes = 64 << 20;

class MemoryDevice final : public CountedDevice {
 public:
  // Zeroed; memory is used only where something was written, of a large device kHugePageBytes at a
  // time.
  static absl::StatusOr<std::unique_ptr<MemoryDevice>> Create(
      SectorCount size, uint64_t huge_pages_from_bytes = kHugePagesFromBytes);
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
  MemoryDevice(std::shared_ptr<std::byte> bytes, SectorCount size, size_t huge_pages)
      : bytes_(std::move(bytes)), size_(size), backed_(huge_pages) {}

  // Huge pages with a part in a place; [first, end). The last bytes of a device may be in none.
  struct Pages {
    size_t first;
    size_t end;
  };
  Pages PagesOf(size_t offset, size_t length) const;
  bool IsBacked(size_t offset, size_t length) const;
  Task<void> Back(size_t offset, size_t length);
  Task<IoStatus> BackAndWrite(IoRequest request);
  void Write(size_t offset, std::span<const std::byte> bytes);
  void Clear(size_t offset, size_t length);
  void ClearInRound(size_t offset, size_t length);

  const std::shared_ptr<std::byte> bytes_;  // loans have their part in it
  const SectorCount size_;
  // Huge pages with memory behind them. Only a hint: nothing but time depends on it.
  std::vector<std::atomic<bool>> backed_;
  RangeLock backing_;  // of huge pages: each is touched by one
  WriteTurns turns_;
};

}  // namespace sectormap
