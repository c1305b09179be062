// SPDX-License-Identifier: Apache-2.0
// DirtyLog: which regions a crash would leave in doubt, kept on a device. A region's bit is durably
// 0 before a write to it begins, and 1 again only after every leg has been flushed.
//
// Commits are grouped: while one write of the log is under way, all who come wait for the next one
// together. Only blocks that changed are written.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/async/wait_queue.h"
#include "core/map/device_resolver.h"
#include "core/map/target_host.h"
#include "targets/mirror/log_image.h"

namespace sectormap::targets {

// For one reactor, the mirror's home, but for health() and is_new().
class DirtyLog {
 public:
  // REQUIRES: the device holds LogImage::SizeFor() bytes.
  DirtyLog(DeviceRef device, uint64_t regions, bool read_only, TargetHost& host);

  const DeviceRef& device() const { return device_; }
  // Any thread. As `status` prints it: A, D (a read or write failed) or F (a flush).
  char health() const { return health_.load(std::memory_order_relaxed); }
  // Any thread. No log of ours has been written over what the device held.
  bool is_new() const { return is_new_.load(); }

  enum class Start {
    kAsLogged,
    kAllDirty,
    kAllClean,
  };
  // Reads the device, if the start needs it, and writes the log as it is from now on. What cannot
  // be read is all dirty; what goes wrong shows in health(), and an event tells of it. Nothing else
  // is under way.
  Task<void> Open(Start start);

  bool clean(uint64_t region) const { return image_.clean(region); }
  // After Open: true if every 0 of the image is a 0 on the device.
  bool durable() const { return durable_ == wanted_; }

  // Returns when the bits of [first, first + count) are durably 0.
  Task<IoStatus> MarkDirty(uint64_t first, uint64_t count);

  // Bits that go back to 1 at the next Commit(). REQUIRES: what was written to the region is
  // durable on every leg.
  void SetClean(uint64_t region);
  Task<IoStatus> Commit();

 private:
  static constexpr size_t kBlockBytes = 4096;  // how finely changes are kept apart

  void Touch(uint64_t region);
  void TouchAll();
  Task<void> ReadDevice();
  Task<IoStatus> WriteChanged();
  // Of a log that takes the place of something else, the bits are durable before the header is:
  // what the device held there must never count.
  Task<IoStatus> WriteBits();
  Task<IoStatus> WriteBlocks(const std::vector<bool>& blocks);
  Task<IoStatus> Flush();
  void Fail(char letter);

  const DeviceRef device_;
  const bool read_only_;
  TargetHost& host_;
  LogImage image_;
  std::vector<bool> changed_;  // blocks of the image that the device may not hold

  std::atomic<bool> is_new_{true};

  // Changes are numbered: those up to `durable_` are on the device.
  uint64_t wanted_ = 0;
  uint64_t durable_ = 0;
  uint64_t last_cleaned_ = 0;              // the last change of a bit from 0 to 1
  uint64_t tried_ = 0;                     // the last attempt to write was for those up to here,
  IoStatus tried_status_ = IoStatus::kOk;  // and ended so
  bool writing_ = false;
  WaitQueue written_;

  std::atomic<char> health_{'A'};
};

}  // namespace sectormap::targets
