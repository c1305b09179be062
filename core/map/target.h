// SPDX-License-Identifier: Apache-2.0
// Target: one row of a table; a BlockDevice of exactly the row's length. A new target is one file
// in targets/ and one line in targets/builtin_targets.cc (docs/adding-a-target.md).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/block/block_device.h"
#include "core/map/device_resolver.h"
#include "core/map/give_up.h"
#include "core/map/target_args.h"

namespace sectormap {

enum class SuspendMode {
  kFlush,    // wait for what is in flight, then flush every backing device
  kNoFlush,  // wait for what is in flight; what targets hold waits for the next table
  kSwap,     // as kFlush, but what targets hold waits, too: the next table is about to come
};

// Thread: Submit and ExtentAt on any reactor; the rest on control threads. Messages come one at a
// time, and so do the life's calls; status may be asked at any moment. A target without state is
// immutable after Create and needs no more thought.
//
// The life of a target that has work of its own (as the kernel's presuspend .. resume):
// - Create: at load. The old table still serves, perhaps over the same devices: no background work.
// - PreResume, Resume: its table goes live, or goes on after a suspend.
// - EndWork, PreSuspend, PostSuspend: before it goes for good, or for a while.
// Destroyed without any of them if its table was never live, else after PostSuspend.
class Target : public BlockDevice {
 public:
  explicit Target(SectorCount length) : length_(length) {}
  SectorCount size() const final { return length_; }

  // The words after the type in `table`: what would create it again.
  virtual std::string TableArgs() const = 0;

  // The same, at the end of `text`: for a type of which a table may have a million rows.
  virtual void AppendTableArgs(std::string& text) const { text += TableArgs(); }

  // The words once more, for a table that is about to go live: without words that must not act a
  // second time if everything ends right after the resume and starts again from what was kept.
  virtual std::string TableArgsToKeep() const { return TableArgs(); }

  // The same without words that act at the first resume only: what TableArgs says after it.
  virtual std::string TableArgsOnceLive() const { return TableArgs(); }

  // The words after the type in `status`.
  virtual std::string StatusArgs() const { return ""; }

  // No read or write that reaches Submit crosses a multiple of this, counted from the row's start:
  // MappedDevice sees to it. Discards and write-zeroes come whole, so that a large one does not
  // become thousands. 0: no boundary inside the row. (The kernel's max_io_len.)
  virtual SectorCount io_boundary() const { return SectorCount(0); }

  // Where the row's I/O goes: to the target, or, if all it would do is to add to the address, past
  // it to the device below. Then a row costs neither a step nor a cache line of the target's, and
  // this is asked once, when the table is built.
  struct Way {
    BlockDevice* device;
    Sector first;  // the row's first sector there
  };
  virtual Way way() { return {this, Sector(0)}; }

  // Every device below, in table order; a device may appear twice.
  virtual std::span<const DeviceRef> backings() const { return {}; }

  // True: a flush of this target is nothing but a flush of each of its backings, and MappedDevice
  // flushes each distinct backing once. False: MappedDevice submits kFlush to the target.
  virtual bool flush_is_for_backings() const { return true; }

  // I/O has stopped; nothing is in flight. A refusal leaves the device suspended, with this table.
  virtual absl::Status PreResume() { return absl::OkStatus(); }

  // I/O comes from now on: background work may start. Also after a suspend that has begun and was
  // taken back, as it failed or was given up; in no state but these.
  virtual void Resume() {}

  // I/O still comes, and is about to be stopped: background work ends, and has ended when it
  // returns. False: that was given up; Resume() comes next, perhaps before the work has ended or
  // was asked to.
  virtual bool EndWork(const GiveUp& give_up) {
    static_cast<void>(give_up);
    return true;
  }

  // After that, I/O still comes: let go of every request that is held, or the suspend waits for
  // ever. With kNoFlush and kSwap a held request may end with kRequeue, from now until PostSuspend,
  // and is mapped again by the table that comes; else it fails. (At any other time kRequeue means:
  // ask me again, in your next turn.)
  virtual void PreSuspend(SuspendMode mode) { static_cast<void>(mode); }

  // Nothing is in flight any more.
  virtual void PostSuspend() {}

  // `dmsetup message`. The answer may be empty.
  virtual absl::StatusOr<std::string> Message(std::span<const std::string> words) {
    static_cast<void>(words);
    return absl::InvalidArgumentError("Target type does not support messages");
  }

 private:
  const SectorCount length_;
};

struct TargetType {
  std::string_view name;     // as in a table row; at most 15 characters
  std::string_view version;  // "1.4.0", as `targets` prints it
  std::string_view usage;    // the row's words after the type, shown in refusals and documents
  std::string_view summary;  // one sentence
  // Reads and checks everything: words, devices, sizes. The refusal is the kernel's text.
  absl::StatusOr<std::unique_ptr<Target>> (*create)(TargetArgs& args);
  // At start a device with such a row goes live after every device with a row of this type whose
  // first word names the same device, and not before all of them do: an origin that was written
  // before its snapshots are there would take from them what they have not copied. Empty: none.
  std::string_view waits_for{};
};

}  // namespace sectormap
