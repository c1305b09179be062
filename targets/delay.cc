// SPDX-License-Identifier: Apache-2.0
// delay: holds each request for some milliseconds before it goes on (drivers/md/dm-delay.c).
//   <device> <first sector> <ms> [<write device> <first sector> <ms>
//                                 [<flush device> <first sector> <ms>]]
//
// Three words serve for everything; with six, writes, discards and flushes have their own; with
// nine, flushes too. Not in order: a request goes on when its own time is over. A suspend lets all
// that is held go at once.
#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/async/reactor_pool.h"
#include "core/async/when_all.h"
#include "core/base/status_macros.h"
#include "core/map/table_spec.h"
#include "core/map/target.h"
#include "targets/builtin_targets.h"

namespace sectormap::targets {
namespace {

// In the order of the table's triples, and of what `status` counts.
enum Class : size_t { kReads, kWrites, kFlushes };
constexpr size_t kClassCount = 3;

struct Triple {
  Sector start;
  std::chrono::milliseconds delay;
};

Class ClassOf(IoOp op) {
  switch (op) {
    case IoOp::kRead:
      return kReads;
    case IoOp::kFlush:
      return kFlushes;
    case IoOp::kWrite:
    case IoOp::kDiscard:
    case IoOp::kWriteZeroes:
      return kWrites;
  }
  return kWrites;
}

// The requests that one reactor holds. Touched on its thread only.
class WaitingRoom {
 public:
  class Stay {
   public:
    Stay(WaitingRoom& room, nanoseconds delay) : room_(room), delay_(delay) {}
    Stay(const Stay&) = delete;
    Stay& operator=(const Stay&) = delete;
    bool await_ready() const noexcept { return !room_.open_; }
    void await_suspend(std::coroutine_handle<> handle) {
      handle_ = handle;
      (previous_ = room_.last_) != nullptr ? room_.last_->next_ = this : room_.first_ = this;
      room_.last_ = this;
      timer_ = Reactor::Current().CallAfter(delay_, [this] {
        room_.Remove(*this);
        handle_.resume();
      });
    }
    void await_resume() noexcept {}

   private:
    friend class WaitingRoom;
    WaitingRoom& room_;
    const nanoseconds delay_;
    std::coroutine_handle<> handle_;
    Reactor::TimerId timer_;
    Stay* next_ = nullptr;
    Stay* previous_ = nullptr;
  };

  void Open() { open_ = true; }
  // Lets everybody go, in the order they came; nobody waits here any more.
  void Close() {
    open_ = false;
    while (first_ != nullptr) {
      Stay& stay = *first_;
      Remove(stay);
      Reactor::Current().CancelTimer(stay.timer_);
      Reactor::Current().Ready(stay.handle_);
    }
  }

 private:
  void Remove(Stay& stay) {
    (stay.previous_ != nullptr ? stay.previous_->next_ : first_) = stay.next_;
    (stay.next_ != nullptr ? stay.next_->previous_ : last_) = stay.previous_;
  }

  bool open_ = true;
  Stay* first_ = nullptr;
  Stay* last_ = nullptr;
};

class DelayTarget final : public Target {
 public:
  DelayTarget(SectorCount length, std::vector<DeviceRef> devices, std::vector<Triple> triples,
              TargetHost& host)
      : Target(length),
        devices_(std::move(devices)),
        triples_(std::move(triples)),
        reactors_(host.reactors()),
        rooms_(std::make_unique<Room[]>(reactors_.size())) {}

  BlockLimits limits() const override { return StackedLimits(LimitsOf(kReads), LimitsOf(kWrites)); }

  Task<IoStatus> Submit(IoRequest request) override {
    const Class kind = ClassOf(request.op);
    if (TripleOf(kind).delay == std::chrono::milliseconds(0)) return Pass(kind, request);
    return PassLater(kind, request);
  }

  Task<Extent> ExtentAt(Sector first) override {
    return DeviceOf(kReads).ExtentAt(first + TripleOf(kReads).start.offset());
  }

  bool flush_is_for_backings() const override { return false; }

  void Resume() override {
    reactors_.OnEach([this](Reactor& reactor) { rooms_[reactor.index()].room.Open(); });
  }
  void PreSuspend(SuspendMode) override {
    reactors_.OnEach([this](Reactor& reactor) { rooms_[reactor.index()].room.Close(); });
  }

  std::string TableArgs() const override {
    std::string text;
    for (size_t i = 0; i < devices_.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? "" : " ", QuoteWord(devices_[i].name()), " ",
                      triples_[i].start.value(), " ", triples_[i].delay.count());
    }
    return text;
  }

  // How many reads, writes and flushes are held now.
  std::string StatusArgs() const override {
    return absl::StrCat(held_[kReads].load(), " ", held_[kWrites].load(), " ",
                        held_[kFlushes].load());
  }

  std::span<const DeviceRef> backings() const override { return devices_; }

 private:
  struct alignas(64) Room {
    WaitingRoom room;
  };

  size_t IndexOf(Class kind) const { return std::min<size_t>(kind, devices_.size() - 1); }
  BlockDevice& DeviceOf(Class kind) const { return *devices_[IndexOf(kind)].device; }
  const Triple& TripleOf(Class kind) const { return triples_[IndexOf(kind)]; }
  BlockLimits LimitsOf(Class kind) const {
    return MovedLimits(DeviceOf(kind).limits(), TripleOf(kind).start);
  }

  Task<IoStatus> Pass(Class kind, IoRequest request) {
    if (kind == kFlushes) return Flush();
    request.first += TripleOf(kind).start.offset();
    return DeviceOf(kind).Submit(request);
  }

  // The kernel flushes the third triple's device only. Here a flush means what it says: the device
  // that was written to is flushed too.
  Task<IoStatus> Flush() {
    BlockDevice& written = DeviceOf(kWrites);
    BlockDevice& named = DeviceOf(kFlushes);
    if (&written == &named) return named.Submit(IoRequest::Flush());
    std::vector<Task<IoStatus>> both;
    both.push_back(written.Submit(IoRequest::Flush()));
    both.push_back(named.Submit(IoRequest::Flush()));
    return WhenAll(std::move(both));
  }

  Task<IoStatus> PassLater(Class kind, IoRequest request) {
    held_[kind].fetch_add(1, std::memory_order_relaxed);
    co_await WaitingRoom::Stay(rooms_[Reactor::Current().index()].room, TripleOf(kind).delay);
    held_[kind].fetch_sub(1, std::memory_order_relaxed);
    co_return co_await Pass(kind, request);
  }

  const std::vector<DeviceRef> devices_;
  const std::vector<Triple> triples_;
  ReactorPool& reactors_;
  const std::unique_ptr<Room[]> rooms_;
  std::array<std::atomic<uint64_t>, kClassCount> held_{};
};

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  const size_t words = args.left();
  if (words != 3 && words != 6 && words != 9) {
    return absl::InvalidArgumentError("Requires exactly 3, 6 or 9 arguments");
  }
  std::vector<DeviceRef> devices;
  std::vector<Triple> triples;
  while (args.left() > 0) {
    ASSIGN_OR_RETURN(DeviceRef device, args.Device("Device lookup failed"));
    ASSIGN_OR_RETURN(const Sector start, args.Place("Invalid device sector"));
    ASSIGN_OR_RETURN(const uint64_t delay, args.Number("Invalid delay"));
    if (delay > UINT32_MAX) return absl::InvalidArgumentError("Invalid delay");
    RETURN_IF_ERROR(CheckFits(device, start, args.length()));
    devices.push_back(std::move(device));
    triples.push_back({start, std::chrono::milliseconds(delay)});
  }
  return std::make_unique<DelayTarget>(args.length(), std::move(devices), std::move(triples),
                                       args.host());
}

}  // namespace

const TargetType kDelayTarget{
    .name = "delay",
    .version = "1.3.0",
    .usage =
        "<device> <first sector> <ms> [<write device> <first sector> <ms> "
        "[<flush device> <first sector> <ms>]]",
    .summary = "holds each request for some milliseconds before it goes on",
    .create = Create,
};

}  // namespace sectormap::targets
