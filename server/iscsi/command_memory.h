// SPDX-License-Identifier: Apache-2.0
// CommandMemory: a reactor's buffers for commands' data, shared out so that neither one logical
// unit whose backing device hangs nor one initiator that stalls, in however many sessions, can take
// them all from the others.
#pragma once

#include <algorithm>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/async/reactor.h"
#include "core/async/task.h"
#include "core/block/buffer_pool.h"
#include "server/scsi/lun.h"
#include "server/scsi/parameter_limits.h"

namespace sectormap::iscsi {

// Bytes of data in flight per reactor: 16 commands of the largest size, or 512 of 128 KiB. Only the
// pages that were used once are in memory.
inline constexpr size_t kDefaultCommandMemoryBytes = 64 * 1024 * 1024;

class CommandMemory;

// What all sessions of one initiator hold of a unit's share.
struct InitiatorShare {
  size_t used = 0;  // bytes of whole blocks, as the pool counts them
  size_t sessions = 0;
};

// What all commands of one logical unit hold on one reactor.
struct UnitShare {
  UnitShare(CommandMemory& its_memory, const scsi::Lun* its_unit)
      : memory(its_memory), unit(its_unit) {}

  CommandMemory& memory;
  const scsi::Lun* const unit;
  size_t used = 0;  // bytes of whole blocks
  size_t sessions = 0;
  std::unordered_map<std::string, InitiatorShare> initiators{};  // by name
};

// What a session's commands hold of a unit's share.
struct SessionShare {
  UnitShare* unit = nullptr;
  InitiatorShare* initiator = nullptr;
  size_t used = 0;              // bytes of whole blocks
  size_t waiting = 0;           // commands that found no room
  uint64_t passed_over_in = 0;  // the last round in which one of them found none
};

// What a command's bytes are. Parameters pass their session's commands that wait: what asks how a
// path is, and what fences others off, is sent when a disk hangs and has large commands waiting.
enum class DataKind : uint8_t { kMedium, kParameters };

// One command's buffer; gives itself and its share back.
class CommandBuffer {
 public:
  CommandBuffer() = default;
  CommandBuffer(IoBuffer buffer, SessionShare& share)
      : buffer_(std::move(buffer)), share_(&share) {}
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
  void Release();

  IoBuffer buffer_;
  SessionShare* share_ = nullptr;
};

// For one reactor; made anywhere. REQUIRES: every buffer has come back before it goes.
class CommandMemory {
 public:
  explicit CommandMemory(size_t capacity) : pool_(capacity, scsi::kMaxTransferBytes) {}

  // A session's share of the unit (or of a target's unknown LUNs: null). Leave() must follow.
  SessionShare Join(const scsi::Lun* unit, std::string_view initiator_name) {
    std::unique_ptr<UnitShare>& share = shares_[unit];
    if (share == nullptr) share = std::make_unique<UnitShare>(*this, unit);
    InitiatorShare& initiator = share->initiators[std::string(initiator_name)];
    ++share->sessions;
    ++initiator.sessions;
    return {.unit = share.get(), .initiator = &initiator};
  }
  // REQUIRES: the session's buffers of the unit have come back.
  void Leave(const SessionShare& share) {
    UnitShare& unit = *share.unit;
    if (--share.initiator->sessions == 0) {
      std::erase_if(unit.initiators, [](const auto& each) { return each.second.sessions == 0; });
    }
    if (--unit.sessions == 0) shares_.erase(unit.unit);
  }

  // A command's place among those that wait for room. It stays until Take() has ended.
  class Waiter {
    friend class CommandMemory;
    SessionShare* share_ = nullptr;
    size_t bytes_ = 0;
    DataKind kind_ = DataKind::kMedium;
    std::coroutine_handle<> handle_ = nullptr;  // null: it does not wait
    bool found_room_ = false;
    Waiter* next_ = nullptr;
    Waiter** place_ = nullptr;  // what points to it
  };

  // Waits until there is room, first come first served within the session: a large command that
  // waits is not passed by small ones. Empty if it was given up. REQUIRES: 0 < bytes <=
  // scsi::kMaxTransferBytes.
  Task<CommandBuffer> Take(SessionShare& share, size_t bytes, DataKind kind, Waiter& waiter) {
    std::optional<CommandBuffer> buffer = TryTake(share, bytes, kind);
    if (buffer.has_value()) return *std::move(buffer);
    return WaitAndTake(share, bytes, kind, waiter);
  }
  // It waits for room no longer, if it does.
  void GiveUp(Waiter& waiter) {
    if (waiter.handle_ == nullptr) return;
    Wake(waiter, false);
    if (waiter.share_->waiting != 0) ServeWaiters();
  }

  // Empty if there is no room now, or a command of the session waits for it.
  std::optional<CommandBuffer> TryTake(SessionShare& share, size_t bytes, DataKind kind) {
    if (!FindsRoom(share, bytes, kind, share.waiting != 0)) return std::nullopt;
    std::optional<IoBuffer> buffer = pool_.TryTake(bytes);
    if (!buffer) return std::nullopt;
    Count(share, bytes);
    return CommandBuffer(*std::move(buffer), share);
  }

  // Whether one command more of any size would find room at once.
  bool HasRoomForMore(const SessionShare& share) const {
    return share.waiting == 0 && HasRoom(share, scsi::kMaxTransferBytes) &&
           pool_.used() + scsi::kMaxTransferBytes <= pool_.capacity();
  }
  // What a session that uses the unit may hold if all do, in bytes: where HasRoom() stops them.
  size_t FairPart(const SessionShare& share) const {
    const size_t own = std::max(share.initiator->sessions, kInitiatorTimes);
    return kInitiatorTimes * UnitMost(*share.unit) / (kInitiatorTimes * share.unit->sessions + own);
  }
  // Bytes; `used` counts whole blocks, as they are held. Any thread.
  size_t capacity() const { return pool_.capacity(); }
  size_t used() const { return pool_.used(); }

 private:
  friend class CommandBuffer;

  // Enough for a host's second path beside one that stalls; the rest is other initiators'.
  static constexpr size_t kInitiatorTimes = 3;

  // True if there is room, and it is counted.
  struct RoomAwaiter {
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      waiter.handle_ = handle;
      waiter.next_ = nullptr;
      waiter.place_ = memory.last_waiter_;
      *memory.last_waiter_ = &waiter;
      memory.last_waiter_ = &waiter.next_;
      ++waiter.share_->waiting;
    }
    bool await_resume() const noexcept { return waiter.found_room_; }

    CommandMemory& memory;
    Waiter& waiter;
  };

  // A unit may hold as much as it leaves free: half of the pool if it is alone, a third if another
  // has as much (a shared buffer's dynamic threshold: Choudhury and Hahne, 1998). So one that has
  // nothing yet finds room, however many hang. But always one command.
  size_t UnitMost(const UnitShare& unit) const {
    return (unit.used + pool_.capacity() - pool_.used()) / 2;
  }
  // Within that a session may hold as much as it leaves free, a quarter of the pool if it is alone,
  // and its initiator with all of its sessions kInitiatorTimes as much. So one that comes later
  // finds room beside one that takes no answers and sends no data: an initiator's other path, and
  // another initiator beside one with many sessions.
  bool HasRoom(const SessionShare& share, size_t bytes) const {
    const UnitShare& unit = *share.unit;
    if (unit.used == 0) return true;
    const size_t held = BufferPool::HeldBytes(bytes);
    const size_t used = unit.used + held;
    const size_t most = UnitMost(unit);
    if (used > most) return false;
    const size_t left = most - used;
    const auto leaves = [left, held](size_t mine, size_t times) {
      return mine == 0 || mine + held <= times * left;
    };
    return leaves(share.used, 1) && leaves(share.initiator->used, kInitiatorTimes);
  }
  // A session that has nothing finds room for a parameter list in any case: what fences the others
  // off must get in.
  bool FindsRoom(const SessionShare& share, size_t bytes, DataKind kind,
                 bool behind_another) const {
    if (share.used == 0 && bytes <= scsi::kMaxParameterDataBytes) return true;
    if (behind_another && kind != DataKind::kParameters) return false;
    return HasRoom(share, bytes);
  }
  static void Count(SessionShare& share, size_t bytes) {
    const size_t held = BufferPool::HeldBytes(bytes);
    share.used += held;
    share.initiator->used += held;
    share.unit->used += held;
  }
  Task<CommandBuffer> WaitAndTake(SessionShare& share, size_t bytes, DataKind kind,
                                  Waiter& waiter) {
    // A task starts when it is awaited, which may be after room was made.
    if (FindsRoom(share, bytes, kind, share.waiting != 0)) {
      Count(share, bytes);
    } else {
      waiter.share_ = &share;
      waiter.bytes_ = bytes;
      waiter.kind_ = kind;
      const bool found_room = co_await RoomAwaiter{*this, waiter};
      if (!found_room) co_return CommandBuffer();
    }
    IoBuffer buffer = co_await pool_.Take(bytes);
    co_return CommandBuffer(std::move(buffer), share);
  }

  // Of all units: how much one may hold follows what all of them leave free. Who finds room has it
  // counted at once, who finds none keeps the place, before the session's others.
  void ServeWaiters() {
    ++round_;
    for (Waiter* next = first_waiter_; next != nullptr;) {
      Waiter& waiter = *std::exchange(next, next->next_);
      SessionShare& share = *waiter.share_;
      if (!FindsRoom(share, waiter.bytes_, waiter.kind_, share.passed_over_in == round_)) {
        share.passed_over_in = round_;
        continue;
      }
      Count(share, waiter.bytes_);
      Wake(waiter, true);
    }
  }
  void Wake(Waiter& waiter, bool found_room) {
    *waiter.place_ = waiter.next_;
    (waiter.next_ != nullptr ? waiter.next_->place_ : last_waiter_) = waiter.place_;
    --waiter.share_->waiting;
    waiter.found_room_ = found_room;
    Reactor::Current().Ready(std::exchange(waiter.handle_, nullptr));
  }

  BufferPool pool_;
  Waiter* first_waiter_ = nullptr;
  Waiter** last_waiter_ = &first_waiter_;
  uint64_t round_ = 0;  // of ServeWaiters()
  std::unordered_map<const scsi::Lun*, std::unique_ptr<UnitShare>> shares_;
};

inline void CommandBuffer::Release() {
  if (share_ == nullptr) return;
  const size_t held = BufferPool::HeldBytes(buffer_.bytes().size());
  buffer_ = IoBuffer();
  share_->used -= held;
  share_->initiator->used -= held;
  share_->unit->used -= held;
  CommandMemory& memory = share_->unit->memory;
  share_ = nullptr;
  if (memory.first_waiter_ != nullptr) [[unlikely]] {
    memory.ServeWaiters();
  }
}

}  // namespace sectormap::iscsi
