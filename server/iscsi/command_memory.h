// SPDX-License-Identifier: Apache-2.0
// CommandMemory: a reactor's buffers for commands' data, shared out so that one logical unit whose
// backing device hangs cannot take them all from the others.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>

#include "core/async/task.h"
#include "core/async/wait_queue.h"
#include "core/block/buffer_pool.h"
#include "server/scsi/lun.h"

namespace sectormap::iscsi {

// Bytes of data in flight per reactor: 16 commands of the largest size, or 512 of 128 KiB. Only the
// pages that were used once are in memory.
inline constexpr size_t kDefaultCommandMemoryBytes = 64 * 1024 * 1024;

// What all commands of one logical unit hold on one reactor.
struct UnitShare {
  explicit UnitShare(WaitQueue& its_room) : room(its_room) {}

  size_t used = 0;  // bytes of whole blocks, as the pool counts them
  size_t holders = 0;
  WaitQueue& room;  // the memory's
};

// One command's buffer; gives itself and its share back.
class CommandBuffer {
 public:
  CommandBuffer() = default;
  CommandBuffer(IoBuffer buffer, UnitShare& share) : buffer_(std::move(buffer)), share_(&share) {}
  CommandBuffer(CommandBuffer&& other) noexcept
      : buffer_(std::move(other.buffer_)), share_(std::exchange(other.share_, nullptr)) {}
  CommandBuffer& operator=(CommandBuffer&& other) noexcept {
    Release();
    buffer_ = std::move(other.buffer_);
    share_ = std::exchange(other.share_, nullptr);
    return *this;
  }
  ~CommandBuffer() { Release(); }

  std::span<std::byte> bytes() const { return buffer_.bytes(); }
  explicit operator bool() const { return share_ != nullptr; }

 private:
  void Release() {
    if (share_ == nullptr) return;
    share_->used -= BufferPool::HeldBytes(buffer_.bytes().size());
    // All who wait: how much a unit may hold follows what all of them leave free.
    share_->room.WakeAll();
    share_ = nullptr;
    buffer_ = IoBuffer();
  }

  IoBuffer buffer_;
  UnitShare* share_ = nullptr;
};

// For one reactor; made anywhere. REQUIRES: every buffer has come back before it goes.
class CommandMemory {
 public:
  explicit CommandMemory(size_t capacity) : pool_(capacity, scsi::kMaxTransferBytes) {}

  // The share of the unit (or of a target's unknown LUNs: null). Leave() must follow.
  UnitShare& Join(const scsi::Lun* unit) {
    std::unique_ptr<UnitShare>& share = shares_[unit];
    if (share == nullptr) share = std::make_unique<UnitShare>(room_);
    ++share->holders;
    return *share;
  }
  void Leave(const scsi::Lun* unit) {
    auto place = shares_.find(unit);
    if (--place->second->holders == 0) shares_.erase(place);
  }

  // Waits until there is room. REQUIRES: 0 < bytes <= scsi::kMaxTransferBytes.
  Task<CommandBuffer> Take(UnitShare& share, size_t bytes) {
    if (std::optional<CommandBuffer> buffer = TryTake(share, bytes)) return *std::move(buffer);
    return WaitAndTake(share, bytes);
  }

  // Empty if there is no room now.
  std::optional<CommandBuffer> TryTake(UnitShare& share, size_t bytes) {
    if (!HasRoom(share, bytes)) return std::nullopt;
    std::optional<IoBuffer> buffer = pool_.TryTake(bytes);
    if (!buffer) return std::nullopt;
    share.used += BufferPool::HeldBytes(bytes);
    return CommandBuffer(*std::move(buffer), share);
  }

  // Whether one command more of any size would find room at once.
  bool HasRoomForMore(const UnitShare& share) const {
    return HasRoom(share, scsi::kMaxTransferBytes) &&
           pool_.used() + scsi::kMaxTransferBytes <= pool_.capacity();
  }
  // What each of those who use the unit may hold if all do, in bytes.
  size_t FairPart(const UnitShare& share) const { return UnitMost(share) / share.holders; }
  // Bytes; `used` counts whole blocks, as they are held. Any thread.
  size_t capacity() const { return pool_.capacity(); }
  size_t used() const { return pool_.used(); }

 private:
  // A unit may hold as much as it leaves free: half of the pool if it is alone, a third if another
  // has as much (a shared buffer's dynamic threshold: Choudhury and Hahne, 1998). So one that has
  // nothing yet finds room, however many hang. But always one command.
  size_t UnitMost(const UnitShare& share) const {
    return (share.used + pool_.capacity() - pool_.used()) / 2;
  }
  bool HasRoom(const UnitShare& share, size_t bytes) const {
    return share.used == 0 || share.used + BufferPool::HeldBytes(bytes) <= UnitMost(share);
  }
  Task<CommandBuffer> WaitAndTake(UnitShare& share, size_t bytes) {
    while (!HasRoom(share, bytes)) co_await room_.Wait();
    share.used += BufferPool::HeldBytes(bytes);
    IoBuffer buffer = co_await pool_.Take(bytes);
    co_return CommandBuffer(std::move(buffer), share);
  }

  BufferPool pool_;
  WaitQueue room_;  // something has been given back
  std::unordered_map<const scsi::Lun*, std::unique_ptr<UnitShare>> shares_;
};

}  // namespace sectormap::iscsi
