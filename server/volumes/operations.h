// SPDX-License-Identifier: Apache-2.0
// Operations: long work on live devices. Each runs on a thread of its own, says how far it is, can
// be waited for and cancelled, and is kept in the state store: what a kill ended, the next start
// takes up again.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/state/state_store.h"

namespace sectormap::volumes {

// Each has a thread and perhaps a copy under way.
inline constexpr size_t kOperationsRunningMax = 32;

// Ended operations are forgotten when they are older or more than this.
inline constexpr size_t kEndedKeptMax = 200;
inline constexpr absl::Duration kEndedKeptFor = absl::Hours(7 * 24);

// The speed that is shown is that of the last so many seconds.
inline constexpr absl::Duration kRateWindow = absl::Seconds(10);

// An end that could not be kept is tried again after so long.
inline constexpr absl::Duration kKeepEndAgain = absl::Milliseconds(500);

enum class OperationState { kRunning, kDone, kFailed, kCancelled };
std::string_view NameOf(OperationState state);  // running, done, failed, cancelled

struct OperationInfo {
  int64_t id = 0;
  std::string kind;    // snapshot-remove, rollback, move, mirror-add, ...
  std::string device;  // what it is about
  OperationState state = OperationState::kRunning;
  bool cancelling = false;
  int64_t done_bytes = 0, total_bytes = 0;  // total 0: not known yet, or nothing to move
  double bytes_per_second = 0;
  std::optional<int64_t> left_seconds;  // nothing while it cannot be told
  int64_t started_unix_seconds = 0, ended_unix_seconds = 0;
  // Of a failed one; of a running one, why its end could not be kept.
  std::string error;

  bool ended() const { return state != OperationState::kRunning; }
};

class Operations;

// What the work itself sees of its operation. Used on its thread only.
class OperationRun {
 public:
  int64_t id() const { return id_; }
  const std::string& device() const { return device_; }
  // What KeepPlan was given last, by this run or by one before a restart.
  const std::string& plan() const { return plan_; }

  // True if somebody cancelled it or the daemon stops; the work then returns Cancelled soon,
  // leaving things so that it can be taken up again (a stop) or so that nothing is to be cleaned
  // up.
  bool ShouldEnd() const;
  // True if it was cancelled, false if the daemon stops.
  bool Cancelled() const;
  // Sleeps; returns earlier, with false, if ShouldEnd().
  bool Sleep(absl::Duration time) const;
  void Progress(int64_t done_bytes, int64_t total_bytes) const;
  // From now on Cancel is refused, with this reason. False if it was cancelled before.
  bool NoWayBack(std::string reason) const;

  // Durable when it returns.
  absl::Status KeepPlan(std::string plan);
  // For a plan that is kept in the same transaction as something else: what to add to it.
  state::OperationRecord RecordWithPlan(std::string plan);

 private:
  friend class Operations;
  OperationRun(Operations& owner, int64_t id, std::string device, std::string plan)
      : owner_(owner), id_(id), device_(std::move(device)), plan_(std::move(plan)) {}

  Operations& owner_;
  const int64_t id_;
  const std::string device_;
  std::string plan_;
};

// Any control thread.
class Operations {
 public:
  // OK: done. Cancelled after ShouldEnd(): cancelled, or taken up at the next start. Else failed.
  using Work = std::function<absl::Status(OperationRun& run)>;

  // Told of each that ends, on its thread, but not of what a stop ends, as that goes on at the next
  // start. Before that once, as running, if its end could not be kept.
  using Log = std::function<void(const OperationInfo& info)>;

  // `store` outlives it. No work sleeps longer than `sleep_max` at a time, so that tests need not
  // wait for it.
  explicit Operations(state::StateStore& store, absl::Duration sleep_max = absl::InfiniteDuration(),
                      Log log = nullptr);
  // Stops.
  ~Operations();
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;

  // Before Restore and Start.
  void AddKind(std::string kind, Work work);
  // At start, once the devices are there: what was running goes on.
  void Restore(std::vector<state::OperationRecord> records);
  // Nothing is started any more, and the running ones have ended when it returns.
  void Stop();
  bool stopping() const;

  // Devices that an operation, or a recipe while it runs, changes the tables of: nobody else's
  // operation may. Given back when it goes; the Operations outlive it.
  class Devices {
   public:
    Devices(Devices&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), names_(std::move(other.names_)) {}
    Devices& operator=(Devices&&) = delete;
    ~Devices();

   private:
    friend class Operations;
    Devices(Operations& owner, std::set<std::string> names)
        : owner_(&owner), names_(std::move(names)) {}
    Operations* owner_;
    std::set<std::string> names_;
  };
  // FailedPrecondition, with who has one of them.
  absl::StatusOr<Devices> Reserve(const std::set<std::string>& names, const std::string& what);
  // Nothing if no operation and no recipe has it.
  std::optional<std::string> ReservedBy(const std::string& name) const;
  // The kind of the operation that has it; empty if none has.
  std::string KindAtWorkOn(const std::string& name) const;
  // FailedPrecondition, with who has it, for VolumeCatalog::SetGuard.
  absl::Status CheckFree(std::string_view name) const;

  // Kept and running when it returns. If one with all of this is running already, that is the
  // answer: who has lost it may ask again. FailedPrecondition: another one has one of `devices`.
  // ResourceExhausted: too many run.
  absl::StatusOr<OperationInfo> Start(const std::string& kind, const std::string& device,
                                      const std::set<std::string>& devices, std::string plan);

  // One of this kind that runs, and that nobody has cancelled, if `is_same` says so of its device
  // and its plan: for who has to find it before what Start's caller checks would be refused because
  // of it.
  using IsSame = std::function<bool(const std::string& device, const std::string& plan)>;
  std::optional<OperationInfo> Running(const std::string& kind, const IsSame& is_same) const;

  std::vector<OperationInfo> List() const;  // by id
  absl::StatusOr<OperationInfo> Get(int64_t id) const;
  // Returns what it is when it has ended, or when `given_up` (asked ten times a second) says true.
  absl::StatusOr<OperationInfo> Wait(int64_t id, const std::function<bool()>& given_up) const;
  // OK: it will end soon, also if the daemon is killed (but if the store cannot keep the wish, only
  // while it lives), or has. FailedPrecondition: it has passed the point of no return.
  absl::StatusOr<OperationInfo> Cancel(int64_t id);

 private:
  friend class OperationRun;

  struct Sample {
    absl::Time time;
    int64_t done_bytes;
  };
  struct Entry {
    state::OperationRecord record;  // its plan begins with the line of devices
    OperationState state = OperationState::kRunning;
    std::string no_way_back;
    std::string not_kept;  // why its end could not be kept
    std::deque<Sample> samples;
    std::thread thread;
  };

  void StartThread(Entry& entry, std::set<std::string> devices, std::string plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static bool IsWanted(const Entry& entry);  // running, and not cancelled
  // Returns when the end is in the store. False: a stop came before, and the next start takes it
  // up.
  bool KeepEnd(int64_t id, const absl::Status& status);
  // Nothing: the stop has ended it.
  std::optional<state::OperationRecord> SetEnd(int64_t id, const absl::Status& status);
  bool PutEnd(const state::OperationRecord& end);
  // REQUIRES: its end is kept.
  OperationInfo End(int64_t id);
  void JoinEnded();
  struct Holder {
    std::string what;  // as refusals name it
    std::string kind;  // of an operation
  };
  static Holder HolderOf(const state::OperationRecord& record);
  absl::Status ReserveLocked(const std::set<std::string>& names, const Holder& holder)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetOld() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  OperationInfo InfoOf(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  state::StateStore& store_;
  const absl::Duration sleep_max_;
  const Log log_;
  std::map<std::string, Work> kinds_;

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<int64_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> over_ ABSL_GUARDED_BY(mutex_);           // threads at their end
  std::map<std::string, Holder> reserved_ ABSL_GUARDED_BY(mutex_);  // by device
};

}  // namespace sectormap::volumes
