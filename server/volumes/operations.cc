// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/operations.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_spec.h"

namespace sectormap::volumes {
namespace {

// How often a waiter looks whether its caller has gone.
constexpr absl::Duration kGivenUpPoll = absl::Milliseconds(100);

constexpr OperationState kStates[] = {OperationState::kRunning, OperationState::kDone,
                                      OperationState::kFailed, OperationState::kCancelled};

OperationState StateNamed(std::string_view name) {
  const auto* found = std::ranges::find(kStates, name, NameOf);
  return found == std::end(kStates) ? OperationState::kFailed : *found;
}

// A plan in the store is a line with the devices it reserves, then the work's own text.
std::string WithDevices(const std::set<std::string>& devices, std::string_view plan) {
  std::string text = "devices";
  for (const std::string& name : devices) absl::StrAppend(&text, " ", QuoteWord(name));
  return absl::StrCat(text, "\n", Absl(plan));
}

struct SplitPlan {
  std::set<std::string> devices;
  std::string plan;
};

SplitPlan WithoutDevices(const std::string& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  SplitPlan split;
  if (const auto words = SplitWords(std::string_view(text).substr(0, end), Comments::kNone)) {
    if (!words->empty()) split.devices.insert(words->begin() + 1, words->end());
  }
  if (end < text.size()) split.plan = text.substr(end + 1);
  return split;
}

absl::Status Busy(const std::string& who, const std::string& device) {
  return absl::FailedPreconditionError(absl::StrCat("Device or resource busy: ", who,
                                                    " is at work on '", device,
                                                    "'; wait for it, or cancel it"));
}

int64_t Now() { return absl::ToUnixSeconds(absl::Now()); }

}  // namespace

std::string_view NameOf(OperationState state) {
  switch (state) {
    case OperationState::kRunning:
      return "running";
    case OperationState::kDone:
      return "done";
    case OperationState::kFailed:
      return "failed";
    case OperationState::kCancelled:
      return "cancelled";
  }
  return "";
}

// --- OperationRun ---

bool OperationRun::ShouldEnd() const {
  absl::MutexLock hold(&owner_.mutex_);
  return owner_.stopping_ || owner_.entries_.at(id_).record.cancelled;
}

bool OperationRun::Cancelled() const {
  absl::MutexLock hold(&owner_.mutex_);
  return owner_.entries_.at(id_).record.cancelled;
}

bool OperationRun::Sleep(absl::Duration time) const {
  absl::MutexLock hold(&owner_.mutex_);
  auto should_end = [this] {
    owner_.mutex_.AssertHeld();
    return owner_.stopping_ || owner_.entries_.at(id_).record.cancelled;
  };
  return !owner_.mutex_.AwaitWithTimeout(absl::Condition(&should_end),
                                         std::min(time, owner_.sleep_max_));
}

void OperationRun::Progress(int64_t done_bytes, int64_t total_bytes) const {
  absl::MutexLock hold(&owner_.mutex_);
  Operations::Entry& entry = owner_.entries_.at(id_);
  entry.record.done_bytes = done_bytes;
  entry.record.total_bytes = total_bytes;
  const absl::Time now = absl::Now();
  entry.samples.push_back({now, done_bytes});
  while (entry.samples.size() > 2 && entry.samples[1].time < now - kRateWindow) {
    entry.samples.pop_front();
  }
}

bool OperationRun::NoWayBack(std::string reason) const {
  absl::MutexLock hold(&owner_.mutex_);
  Operations::Entry& entry = owner_.entries_.at(id_);
  if (entry.record.cancelled) return false;
  entry.no_way_back = std::move(reason);
  return true;
}

state::OperationRecord OperationRun::RecordWithPlan(std::string plan) {
  plan_ = std::move(plan);
  absl::MutexLock hold(&owner_.mutex_);
  Operations::Entry& entry = owner_.entries_.at(id_);
  entry.record.plan = WithDevices(WithoutDevices(entry.record.plan).devices, plan_);
  return entry.record;
}

absl::Status OperationRun::KeepPlan(std::string plan) {
  state::Changes changes;
  changes.put_operations.push_back(RecordWithPlan(std::move(plan)));
  return owner_.store_.Apply(changes);
}

// --- Operations ---

Operations::Operations(state::StateStore& store, absl::Duration sleep_max, Log log)
    : store_(store), sleep_max_(sleep_max), log_(std::move(log)) {}

Operations::~Operations() { Stop(); }

void Operations::Stop() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock hold(&mutex_);
    stopping_ = true;
    threads.swap(over_);
    for (auto& [id, entry] : entries_) {
      if (entry.thread.joinable()) threads.push_back(std::move(entry.thread));
    }
  }
  for (std::thread& thread : threads) thread.join();
}

bool Operations::stopping() const {
  absl::MutexLock hold(&mutex_);
  return stopping_;
}

void Operations::AddKind(std::string kind, Work work) { kinds_[std::move(kind)] = std::move(work); }

void Operations::Restore(std::vector<state::OperationRecord> records) {
  absl::MutexLock hold(&mutex_);
  for (state::OperationRecord& record : records) {
    const int64_t id = record.id;
    next_id_ = std::max(next_id_, id + 1);
    Entry& entry = entries_[id];
    entry.state = StateNamed(record.state);
    entry.record = std::move(record);
    if (entry.state != OperationState::kRunning) continue;
    SplitPlan split = WithoutDevices(entry.record.plan);
    // They were reserved by the same operations before: no two have one in common.
    ReserveLocked(split.devices, HolderOf(entry.record)).IgnoreError();
    StartThread(entry, std::move(split.devices), std::move(split.plan));
  }
  ForgetOld();
}

void Operations::StartThread(Entry& entry, std::set<std::string> devices, std::string plan) {
  const state::OperationRecord& record = entry.record;
  entry.thread = std::thread([this, id = record.id, kind = record.kind, device = record.device,
                              devices = std::move(devices), plan = std::move(plan)] {
    bool ended = false;
    {
      const Devices reserved(*this, devices);
      OperationRun run(*this, id, device, plan);
      const auto work = kinds_.find(kind);
      ended = KeepEnd(id, work == kinds_.end() ? absl::UnimplementedError(absl::StrCat(
                                                     "this version knows no '", kind, "'"))
                                               : work->second(run));
    }
    if (ended) {
      const OperationInfo info = End(id);
      if (log_) log_(info);
    }
    absl::MutexLock hold(&mutex_);
    const auto self = entries_.find(id);
    if (self != entries_.end() && self->second.thread.joinable()) {
      over_.push_back(std::move(self->second.thread));
    }
  });
}

// Until its end is kept it is running for everybody, and has its devices: the next start would do
// again what was said to be over, on a disk that somebody has put to another use since.
bool Operations::KeepEnd(int64_t id, const absl::Status& status) {
  const std::optional<state::OperationRecord> end = SetEnd(id, status);
  if (!end.has_value()) return false;
  bool told = false;
  bool stopped = false;
  while (!PutEnd(*end)) {
    if (stopped) return false;
    if (!std::exchange(told, true) && log_) log_(*Get(id));
    absl::MutexLock hold(&mutex_);
    const auto stopping = [this] {
      mutex_.AssertHeld();
      return stopping_;
    };
    // A stop tries once more.
    stopped =
        mutex_.AwaitWithTimeout(absl::Condition(&stopping), std::min(kKeepEndAgain, sleep_max_));
  }
  return true;
}

std::optional<state::OperationRecord> Operations::SetEnd(int64_t id, const absl::Status& status) {
  absl::MutexLock hold(&mutex_);
  Entry& entry = entries_.at(id);
  // What the stop ended stays as it is in the store, and is taken up at the next start.
  if (!status.ok() && stopping_ && !entry.record.cancelled) return std::nullopt;
  // In the record at once: a Cancel that comes now must not put another one over it.
  state::OperationRecord& end = entry.record;
  OperationState state = OperationState::kDone;
  if (status.ok()) {
    end.done_bytes = end.total_bytes;
  } else if (absl::IsCancelled(status) && end.cancelled) {
    state = OperationState::kCancelled;
  } else {
    state = OperationState::kFailed;
    end.error = std::string(status.message());
  }
  end.state = std::string(NameOf(state));
  end.ended_unix_seconds = Now();
  entry.samples.clear();
  return end;
}

// Not under the lock: a store that somebody else holds may take seconds, again and again.
bool Operations::PutEnd(const state::OperationRecord& end) {
  state::Changes changes;
  changes.put_operations.push_back(end);
  const absl::Status kept = store_.Apply(changes);
  absl::MutexLock hold(&mutex_);
  entries_.at(end.id).not_kept =
      kept.ok() ? "" : absl::StrCat("its end could not be kept: ", kept.message());
  return kept.ok();
}

OperationInfo Operations::End(int64_t id) {
  absl::MutexLock hold(&mutex_);
  Entry& entry = entries_.at(id);
  entry.state = StateNamed(entry.record.state);
  const OperationInfo ended = InfoOf(entry);
  ForgetOld();
  return ended;
}

void Operations::ForgetOld() {
  const int64_t oldest = Now() - absl::ToInt64Seconds(kEndedKeptFor);
  size_t ended = 0;
  for (const auto& [id, entry] : entries_) ended += entry.state != OperationState::kRunning;
  state::Changes changes;
  for (auto& [id, entry] : entries_) {
    if (entry.state == OperationState::kRunning) continue;
    if (ended <= kEndedKeptMax && entry.record.ended_unix_seconds >= oldest) continue;
    if (entry.thread.joinable()) continue;  // has just ended
    changes.delete_operations.push_back(id);
    --ended;
  }
  if (changes.delete_operations.empty() || !store_.Apply(changes).ok()) return;
  for (const int64_t id : changes.delete_operations) entries_.erase(id);
}

absl::Status Operations::CheckFree(std::string_view name) const {
  const std::string device(name);
  const std::optional<std::string> who = ReservedBy(device);
  return who.has_value() ? Busy(*who, device) : absl::OkStatus();
}

Operations::Holder Operations::HolderOf(const state::OperationRecord& record) {
  return {.what = absl::StrCat("operation ", record.id, " (", record.kind, ")"),
          .kind = record.kind};
}

absl::Status Operations::ReserveLocked(const std::set<std::string>& names, const Holder& holder) {
  for (const std::string& name : names) {
    const auto other = reserved_.find(name);
    if (other == reserved_.end()) continue;
    return Busy(other->second.what, name);
  }
  for (const std::string& name : names) reserved_[name] = holder;
  return absl::OkStatus();
}

absl::StatusOr<Operations::Devices> Operations::Reserve(const std::set<std::string>& names,
                                                        const std::string& what) {
  absl::MutexLock hold(&mutex_);
  RETURN_IF_ERROR(ReserveLocked(names, {.what = what, .kind = ""}));
  return Devices(*this, names);
}

Operations::Devices::~Devices() {
  if (owner_ == nullptr) return;
  absl::MutexLock hold(&owner_->mutex_);
  for (const std::string& name : names_) owner_->reserved_.erase(name);
}

std::optional<std::string> Operations::ReservedBy(const std::string& name) const {
  absl::MutexLock hold(&mutex_);
  const auto found = reserved_.find(name);
  if (found == reserved_.end()) return std::nullopt;
  return found->second.what;
}

std::string Operations::KindAtWorkOn(const std::string& name) const {
  absl::MutexLock hold(&mutex_);
  const auto found = reserved_.find(name);
  return found == reserved_.end() ? "" : found->second.kind;
}

void Operations::JoinEnded() {
  std::vector<std::thread> over;
  {
    absl::MutexLock hold(&mutex_);
    over.swap(over_);
  }
  for (std::thread& thread : over) thread.join();
}

absl::StatusOr<OperationInfo> Operations::Start(const std::string& kind, const std::string& device,
                                                const std::set<std::string>& devices,
                                                std::string plan) {
  CHECK(kinds_.contains(kind));
  JoinEnded();
  absl::MutexLock hold(&mutex_);
  if (stopping_) return absl::UnavailableError("sectormapd is stopping");
  const std::string kept_plan = WithDevices(devices, plan);
  const auto same = std::ranges::find_if(entries_, [&](const auto& entry) {
    const state::OperationRecord& record = entry.second.record;
    return IsWanted(entry.second) && record.kind == kind && record.device == device &&
           record.plan == kept_plan;
  });
  if (same != entries_.end()) return InfoOf(same->second);
  const auto running = std::ranges::count_if(
      entries_, [](const auto& entry) { return entry.second.state == OperationState::kRunning; });
  if (static_cast<size_t>(running) >= kOperationsRunningMax) {
    return absl::ResourceExhaustedError(absl::StrCat(
        kOperationsRunningMax, " operations are running; wait for one of them to end"));
  }
  const int64_t id = next_id_;
  state::OperationRecord record{.id = id,
                                .kind = kind,
                                .device = device,
                                .state = std::string(NameOf(OperationState::kRunning)),
                                .plan = kept_plan,
                                .started_unix_seconds = Now()};
  RETURN_IF_ERROR(ReserveLocked(devices, HolderOf(record)));
  state::Changes changes;
  changes.put_operations.push_back(record);
  if (const absl::Status kept = store_.Apply(changes); !kept.ok()) {
    for (const std::string& name : devices) reserved_.erase(name);
    return kept;
  }
  ++next_id_;
  Entry& entry = entries_[id];
  entry.record = std::move(record);
  StartThread(entry, devices, std::move(plan));
  return InfoOf(entry);
}

OperationInfo Operations::InfoOf(const Entry& entry) const {
  const state::OperationRecord& record = entry.record;
  const bool running = entry.state == OperationState::kRunning;
  OperationInfo info{.id = record.id,
                     .kind = record.kind,
                     .device = record.device,
                     .state = entry.state,
                     .cancelling = record.cancelled && running,
                     .done_bytes = record.done_bytes,
                     .total_bytes = record.total_bytes,
                     .bytes_per_second = 0,
                     .left_seconds = std::nullopt,
                     .started_unix_seconds = record.started_unix_seconds,
                     .ended_unix_seconds = running ? 0 : record.ended_unix_seconds,
                     .error = running ? entry.not_kept : record.error};
  if (entry.samples.size() >= 2) {
    const double seconds =
        absl::ToDoubleSeconds(entry.samples.back().time - entry.samples.front().time);
    const auto moved =
        static_cast<double>(entry.samples.back().done_bytes - entry.samples.front().done_bytes);
    if (seconds > 0 && moved > 0) {
      info.bytes_per_second = moved / seconds;
      info.left_seconds = static_cast<int64_t>(
          static_cast<double>(record.total_bytes - record.done_bytes) / info.bytes_per_second);
    }
  }
  return info;
}

bool Operations::IsWanted(const Entry& entry) {
  return entry.state == OperationState::kRunning && !entry.record.cancelled;
}

std::optional<OperationInfo> Operations::Running(const std::string& kind,
                                                 const IsSame& is_same) const {
  absl::MutexLock hold(&mutex_);
  for (const auto& [id, entry] : entries_) {
    const state::OperationRecord& record = entry.record;
    if (IsWanted(entry) && record.kind == kind &&
        is_same(record.device, WithoutDevices(record.plan).plan)) {
      return InfoOf(entry);
    }
  }
  return std::nullopt;
}

std::vector<OperationInfo> Operations::List() const {
  absl::MutexLock hold(&mutex_);
  std::vector<OperationInfo> all;
  for (const auto& [id, entry] : entries_) all.push_back(InfoOf(entry));
  return all;
}

absl::StatusOr<OperationInfo> Operations::Get(int64_t id) const {
  absl::MutexLock hold(&mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) {
    return absl::NotFoundError(
        absl::StrCat("there is no operation ", id, ", or it ended long ago"));
  }
  return InfoOf(found->second);
}

absl::StatusOr<OperationInfo> Operations::Wait(int64_t id,
                                               const std::function<bool()>& given_up) const {
  while (true) {
    ASSIGN_OR_RETURN(const OperationInfo info, Get(id));
    if (info.ended() || given_up()) return info;
    absl::MutexLock hold(&mutex_);
    auto changed = [this, id] {
      mutex_.AssertHeld();
      const auto found = entries_.find(id);
      return found == entries_.end() || found->second.state != OperationState::kRunning;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&changed), kGivenUpPoll);
  }
}

absl::StatusOr<OperationInfo> Operations::Cancel(int64_t id) {
  absl::MutexLock hold(&mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) {
    return absl::NotFoundError(
        absl::StrCat("there is no operation ", id, ", or it ended long ago"));
  }
  Entry& entry = found->second;
  if (entry.state == OperationState::kRunning && !entry.record.cancelled) {
    if (!entry.no_way_back.empty()) return absl::FailedPreconditionError(entry.no_way_back);
    entry.record.cancelled = true;
    state::Changes changes;
    changes.put_operations.push_back(entry.record);
    // If it cannot be kept, it is heard all the same, but for a kill: a full disk may be why.
    store_.Apply(changes).IgnoreError();
  }
  return InfoOf(entry);
}

}  // namespace sectormap::volumes
