// SPDX-License-Identifier: Apache-2.0
// TransientStore: chunks from the device's start on, and nothing that says which they are: it is
// forgotten with the table (drivers/md/dm-snap-transient.c).
#pragma once

#include <memory>

#include "targets/snapshot/exception_store.h"

namespace sectormap::targets {

class TransientStore final : public ExceptionStore {
 public:
  TransientStore(std::shared_ptr<BlockDevice> device, uint64_t chunk_sectors)
      : device_(std::move(device)), chunk_sectors_(chunk_sectors) {}

  uint64_t chunk_sectors() const override { return chunk_sectors_; }
  Allocation Allocate(uint64_t wanted) override;
  uint64_t commit_room() const override { return kChunksMax; }
  Task<IoStatus> Commit(std::span<const ExceptionRun>) override { return IoStatus::kOk; }
  Task<IoStatus> Invalidate() override { return IoStatus::kOk; }
  Usage usage() const override;

  bool can_merge() const override { return false; }
  Task<IoStatus> ReadLast(uint64_t, std::vector<ExceptionRun>&) override {
    return IoStatus::kNotSupported;
  }
  Task<IoStatus> RemoveLast(uint64_t) override { return IoStatus::kNotSupported; }
  void Forget(uint64_t) override {}

 private:
  const std::shared_ptr<BlockDevice> device_;
  const uint64_t chunk_sectors_;
  uint64_t next_free_ = 0;  // chunk
};

}  // namespace sectormap::targets
