// SPDX-License-Identifier: Apache-2.0
// CountedDevice: a backing device, which counts what it did, so that metrics can list it.
#pragma once

#include "core/block/block_device.h"
#include "core/block/io_counters.h"

namespace sectormap {

class CountedDevice : public BlockDevice {
 public:
  // Any thread.
  const IoCounters& counters() const { return counters_; }

 protected:
  // Every request passes here once, at its end.
  IoStatus Finish(const IoRequest& request, IoStatus status) {
    counters_.Count(request, status);
    return status;
  }
  // And every write at once that succeeded.
  bool WroteAtOnce(size_t bytes) {
    counters_.Count(IoOp::kWrite, WholeSectors(ByteCount(bytes)), IoStatus::kOk);
    return true;
  }
  // And every loan.
  Loan Lent(Loan loan, SectorCount count) {
    counters_.Count(IoOp::kRead, count, IoStatus::kOk);
    return loan;
  }

 private:
  IoCounters counters_;
};

}  // namespace sectormap
