// SPDX-License-Identifier: Apache-2.0
#include "targets/mirror/mirror_target.h"

#include <bit>
#include <charconv>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_spec.h"

namespace sectormap::targets {
namespace {

constexpr const char* kMessages =
    "mirror: the messages are: recovery_rate <bytes per second, or 0 for no limit> | whole_legs "
    "(before the first resume: whole_legs <number>...)";

// Regions that a discard or write-zeroes is announced to the log for at once.
constexpr uint64_t kRegionsAnnouncedMax = 4096;

uint64_t RegionCount(SectorCount length, SectorCount region_size) {
  return (length.value() + region_size.value() - 1) / region_size.value();
}

// Mirrors take turns: each has one reactor for its log and its recovery.
Reactor& NextHome(ReactorPool& reactors) {
  static std::atomic<unsigned> next{0};
  const auto size = static_cast<unsigned>(reactors.size());
  return reactors[static_cast<int>(next.fetch_add(1, std::memory_order_relaxed) % size)];
}

}  // namespace

MirrorTarget::MirrorTarget(SectorCount length, std::vector<Legs::Leg> legs, MirrorOptions options,
                           TargetHost& host)
    : Target(length),
      options_(std::move(options)),
      region_shift_(std::countr_zero(options_.region_size.value())),
      host_(host),
      home_(NextHome(host.reactors())),
      legs_(std::move(legs), host),
      regions_(RegionCount(length, options_.region_size), legs_.all()),
      log_(options_.log.has_value() ? std::make_unique<DirtyLog>(*options_.log, regions_.count(),
                                                                 options_.read_only, host)
                                    : nullptr),
      gate_(regions_, legs_, log_.get(), home_),
      recovery_(regions_, gate_, legs_, activity_, home_, options_.region_size, length,
                [this] { NoteAllTried(); }),
      sync_(options_.sync) {
  if (options_.log.has_value()) backings_.push_back(*options_.log);
  for (size_t leg = 0; leg < legs_.size(); ++leg) backings_.push_back(legs_[leg].device);
}

MirrorTarget::~MirrorTarget() { CHECK(!tidy_timer_.has_value()); }

// --- Life: control threads ---

absl::Status MirrorTarget::PreResume() {
  const MirrorOptions::Sync sync = this->sync();
  sync_.store(sync);
  began_ = true;
  const LegSet whole = whole_before_.exchange(LegSet());
  if (log_ == nullptr) {
    gate_.StartWithoutLog(sync == MirrorOptions::Sync::kNoSync ? legs_.all() : whole);
    return absl::OkStatus();
  }
  const DirtyLog::Start start = sync == MirrorOptions::Sync::kSync     ? DirtyLog::Start::kAllDirty
                                : sync == MirrorOptions::Sync::kNoSync ? DirtyLog::Start::kAllClean
                                                                       : DirtyLog::Start::kAsLogged;
  host_.reactors().RunOn(home_.index(), [this, start] { return log_->Open(start); });
  // Not on the reactor: it would stand still for as long as this takes with a hundred million.
  gate_.StartFromLog(whole);
  return absl::OkStatus();
}

void MirrorTarget::Resume() {
  if (log_ == nullptr || sync_.load() == MirrorOptions::Sync::kNoSync) {
    sync_.store(MirrorOptions::Sync::kAsLogged);
  }
  held_.HoldAgain();
  host_.reactors().RunOn(home_.index(), [this] { return GoOn(); });
}

Task<void> MirrorTarget::GoOn() {
  if (regions_.in_sync_count() != regions_.count()) told_in_sync_ = false;
  if (options_.read_only) co_return;
  recovery_.Start();
  tidying_.Open();
  if (log_ != nullptr) ArmTidy();
}

Task<void> MirrorTarget::StopRecovery() {
  recovery_.Stop();
  co_return;
}

bool MirrorTarget::EndWork(const GiveUp& give_up) {
  host_.reactors().RunOn(home_.index(), [this] { return StopRecovery(); });
  return recovery_.AwaitEnd(give_up);
}

void MirrorTarget::PreSuspend(SuspendMode mode) {
  held_.Release(mode == SuspendMode::kFlush ? IoStatus::kIoError : IoStatus::kRequeue);
}

void MirrorTarget::PostSuspend() {
  // Also: what the last requests have posted to the home reactor has run after this.
  host_.reactors().RunOn(home_.index(), [this] { return TidyUp(); });
}

Task<void> MirrorTarget::TidyUp() {
  if (tidy_timer_.has_value()) home_.CancelTimer(*std::exchange(tidy_timer_, std::nullopt));
  tidying_.Close();
  co_await tidying_.Drained();
  if (log_ != nullptr && !options_.read_only) {
    legs_.NoteErrors(co_await gate_.Tidy(/*force=*/true), LegError::kFlush);
  }
}

// --- Home reactor ---

// The kernel's do_recovery: once all is in sync, what failed before is forgotten.
void MirrorTarget::NoteAllTried() {
  if (regions_.in_sync_count() != regions_.count()) return;
  if (!std::exchange(told_in_sync_, true)) {
    legs_.ForgetErrors();
    host_.RaiseEvent();
  }
  held_.Retry();
  if (regions_.in_sync_count() == regions_.count()) return;
  // A write has failed meanwhile: that was not to be forgotten.
  LegSet lacking;
  for (uint64_t region = 0; region < regions_.count(); ++region) {
    lacking = lacking | (legs_.all() - regions_.legs(region));
  }
  legs_.NoteErrors(lacking, LegError::kWrite);
}

Task<void> MirrorTarget::SetRate(uint64_t bytes_per_second) {
  recovery_.SetRate(bytes_per_second);
  co_return;
}

void MirrorTarget::ArmTidy() {
  if (tidy_timer_.has_value()) return;
  tidy_timer_ = home_.CallAfter(kTidyPeriod, [this] {
    tidy_timer_.reset();
    if (tidying_.TryEnter()) Detach(TidyAndArm());
  });
}

Task<void> MirrorTarget::TidyAndArm() {
  legs_.NoteErrors(co_await gate_.Tidy(/*force=*/false), LegError::kFlush);
  if (tidying_.is_open()) ArmTidy();
  tidying_.Leave();
}

// --- I/O: any reactor ---

Task<IoStatus> MirrorTarget::Submit(IoRequest request) {
  activity_.Note();
  switch (request.op) {
    case IoOp::kRead:
      return SubmitRead(request);
    case IoOp::kWrite:
      return SubmitWrite(request);
    case IoOp::kFlush:
      return Flush();
    case IoOp::kDiscard:
    case IoOp::kWriteZeroes:
      return ClearRange(request);
  }
  return IoStatus::kNotSupported;
}

// The primary serves all reads, as in the kernel. Balancing them would let a reader see a write
// that is under way on one leg and then, from another, the sector as it was before.
Task<IoStatus> MirrorTarget::SubmitRead(const IoRequest& request) {
  const size_t leg = legs_.ChooseForRead(regions_.legs(RegionOf(request.first)));
  Task<IoStatus> below = legs_.Submit(leg, request);
  if (!below.immediate()) return WatchRead(request, leg, std::move(below));
  const IoStatus status = below.await_resume();
  if (status != IoStatus::kOk) [[unlikely]] {
    return ReadElsewhere(request, leg, status);
  }
  return status;
}

Task<IoStatus> MirrorTarget::WatchRead(IoRequest request, size_t leg, Task<IoStatus> below) {
  const IoStatus status = co_await below;
  if (status == IoStatus::kOk) [[likely]] {
    co_return status;
  }
  co_return co_await ReadElsewhere(request, leg, status);
}

Task<IoStatus> MirrorTarget::ReadElsewhere(IoRequest request, size_t leg, IoStatus status) {
  LegSet tried;
  while (status != IoStatus::kOk) {
    legs_.NoteError(leg, LegError::kRead);
    tried = tried | LegSet::Only(leg);
    const LegSet others = regions_.legs(RegionOf(request.first)) - tried;
    if (others.empty()) break;
    leg = legs_.ChooseForRead(others);
    status = co_await legs_.Submit(leg, request);
  }
  co_return status;
}

Task<IoStatus> MirrorTarget::SubmitWrite(const IoRequest& request) {
  const LegSet legs = gate_.TryEnter(RegionOf(request.first));
  if (legs.empty()) [[unlikely]] {
    return WriteLater(request);
  }
  return WriteTo(legs, request);
}

Task<IoStatus> MirrorTarget::WriteLater(IoRequest request) {
  const RegionGate::Entry entry = co_await gate_.EnterLater(RegionOf(request.first));
  if (entry.legs.empty()) co_return co_await HoldOrAnswer(IoStatus::kIoError);
  co_return co_await WriteTo(entry.legs, request);
}

// In the region already.
Task<IoStatus> MirrorTarget::WriteTo(LegSet legs, const IoRequest& request) {
  const RegionRun run{RegionOf(request.first), RegionOf(request.first) + 1};
  if (!MayAnswer(legs)) [[unlikely]] {
    Leave(run);
    return held_.Hold();
  }
  LegTasks writes(legs_, legs, request);
  if (!writes.ended()) return WatchWrite(run, request.op, std::move(writes));
  if (!writes.failed().empty()) [[unlikely]] {
    return WriteFailed(run, request.op, writes.failed(), writes.failure());
  }
  gate_.Leave(run.first);
  return IoStatus::kOk;
}

Task<IoStatus> MirrorTarget::WatchWrite(RegionRun run, IoOp op, LegTasks writes) {
  co_await writes.Join();
  if (!writes.failed().empty()) [[unlikely]] {
    co_return co_await WriteFailed(run, op, writes.failed(), writes.failure());
  }
  Leave(run);
  co_return IoStatus::kOk;
}

Task<IoStatus> MirrorTarget::WriteFailed(RegionRun run, IoOp op, LegSet failed, IoStatus failure) {
  if (op == IoOp::kDiscard && failure == IoStatus::kNotSupported) {
    // Nothing was promised and no leg is the worse for it.
    Leave(run);
    return failure;
  }
  bool lost = false;
  for (uint64_t region = run.first; region < run.end; ++region) {
    if (regions_.KeepOnly(region, legs_.all() - failed).empty()) lost = true;
  }
  if (failure == IoStatus::kAborted) {
    // The daemon ends, and the leg is as good as before. Nobody is left to say that it lacks this:
    // a start would take it for the newer one, so the write is not answered as done.
    Leave(run);
    return failure;
  }
  legs_.NoteErrors(failed, LegError::kWrite);
  Leave(run);
  if (lost) return failure;
  return HoldOrAnswer(IoStatus::kOk);
}

void MirrorTarget::Leave(RegionRun run) {
  for (uint64_t region = run.first; region < run.end; ++region) gate_.Leave(region);
}

Task<IoStatus> MirrorTarget::HoldOrAnswer(IoStatus answer) {
  if (holds_failed_writes()) return held_.Hold();
  return answer;
}

// Run by run of neighbouring regions that the same legs hold.
Task<IoStatus> MirrorTarget::ClearRange(IoRequest request) {
  const Sector end = request.first + request.count;
  uint64_t announced = 0;  // regions before this one are marked dirty, or were
  Sector place = request.first;
  while (place < end) {
    RegionRun run{RegionOf(place), RegionOf(place) + 1};
    const uint64_t last = RegionOf(end - SectorCount(1));
    if (run.first >= announced) {
      announced = std::min(run.first + kRegionsAnnouncedMax, last + 1);
      co_await gate_.Announce(run.first, announced - run.first);
    }
    const RegionGate::Entry entry = co_await gate_.EnterLater(run.first);
    if (entry.legs.empty()) co_return co_await HoldOrAnswer(IoStatus::kIoError);
    if (!MayAnswer(entry.legs)) {
      Leave(run);
      co_return co_await held_.Hold();
    }
    ExtendRun(run, entry.legs, std::min(announced, last + 1));
    const Sector run_end = std::min(end, Sector(run.end << region_shift_));
    const IoRequest piece = request.Part(place - request.first, run_end - place);
    LegTasks clears(legs_, entry.legs, piece);
    if (!clears.ended()) co_await clears.Join();
    if (!clears.failed().empty()) {
      co_return co_await WriteFailed(run, request.op, clears.failed(), clears.failure());
    }
    Leave(run);
    place = run_end;
  }
  co_return IoStatus::kOk;
}

void MirrorTarget::ExtendRun(RegionRun& run, LegSet legs, uint64_t most) {
  for (; run.end < most; ++run.end) {
    const LegSet next = gate_.TryEnter(run.end);
    if (next == legs) continue;
    if (!next.empty()) gate_.Leave(run.end);
    return;
  }
}

Task<IoStatus> MirrorTarget::Flush() {
  Reactor& here = Reactor::Current();
  co_await home_.Switch();
  const RegionGate::Flushed flushed = co_await gate_.FlushLegs();
  co_await here.Switch();
  if (flushed.failed.empty()) co_return IoStatus::kOk;
  legs_.NoteErrors(flushed.failed, LegError::kWrite);
  if (flushed.lost) co_return flushed.status;
  // The one that a suspend asks for: what is left has the data.
  if (held_.answer().has_value()) co_return IoStatus::kOk;
  co_return co_await HoldOrAnswer(IoStatus::kOk);
}

Task<Extent> MirrorTarget::ExtentAt(Sector first) {
  const uint64_t region = RegionOf(first);
  const Legs::Leg& leg = legs_[legs_.ChooseForRead(regions_.legs(region))];
  Extent extent = co_await leg.device.device->ExtentAt(first + leg.start.offset());
  // What the leg knows beyond this region may not be what another leg holds.
  extent.count = std::min(extent.count, Sector((region + 1) << region_shift_) - first);
  co_return extent;
}

// --- Words ---

// What the log's device holds until the log is first written is not to be gone by, neither at the
// next resume nor after a restart: it may call a leg whole that has just been added.
MirrorOptions::Sync MirrorTarget::sync() const {
  const MirrorOptions::Sync sync = sync_.load();
  const bool is_logged = log_ != nullptr && !log_->is_new();
  return sync == MirrorOptions::Sync::kSync && is_logged ? MirrorOptions::Sync::kAsLogged : sync;
}

std::string MirrorTarget::TableArgsToKeep() const {
  const MirrorOptions::Sync sync = this->sync();
  return TableWords(sync == MirrorOptions::Sync::kNoSync ? MirrorOptions::Sync::kAsLogged : sync);
}

std::string MirrorTarget::TableWords(MirrorOptions::Sync sync) const {
  const std::string_view word = sync == MirrorOptions::Sync::kSync     ? " sync"
                                : sync == MirrorOptions::Sync::kNoSync ? " nosync"
                                                                       : "";
  const int words = (log_ != nullptr ? 2 : 1) + (word.empty() ? 0 : 1);
  std::string text = log_ != nullptr
                         ? absl::StrCat("disk ", words, " ", QuoteWord(log_->device().name()), " ")
                         : absl::StrCat("core ", words, " ");
  absl::StrAppend(&text, options_.region_size.value(), Absl(word), " ", legs_.size());
  for (size_t leg = 0; leg < legs_.size(); ++leg) {
    absl::StrAppend(&text, " ", QuoteWord(legs_[leg].device.name()), " ", legs_[leg].start.value());
  }
  if (options_.handle_errors) {
    absl::StrAppend(&text, options_.keep_log ? " 2 handle_errors keep_log" : " 1 handle_errors");
  }
  return text;
}

std::string MirrorTarget::StatusArgs() const {
  std::string text = absl::StrCat(legs_.size());
  for (size_t leg = 0; leg < legs_.size(); ++leg) {
    absl::StrAppend(&text, " ", QuoteWord(legs_[leg].device.name()));
  }
  absl::StrAppend(&text, " ", regions_.in_sync_count(), "/", regions_.count(), " 1 ",
                  legs_.Health());
  if (log_ == nullptr) return absl::StrCat(text, " 1 core");
  return absl::StrCat(text, " 3 disk ", QuoteWord(log_->device().name()), " ",
                      std::string(1, log_->health()));
}

LegSet MirrorTarget::WholeLegs() const {
  LegSet whole = legs_.all();
  if (regions_.in_sync_count() == regions_.count()) return whole;
  for (uint64_t region = 0; region < regions_.count() && !whole.empty(); ++region) {
    whole = whole & regions_.legs(region);
  }
  return whole;
}

absl::Status MirrorTarget::SetWholeLegs(std::span<const std::string> numbers) {
  if (began_) {
    return absl::FailedPreconditionError(
        "mirror: which legs are whole can be said before the first resume only");
  }
  LegSet whole;
  for (const std::string& number : numbers) {
    size_t leg = 0;
    const char* end = number.data() + number.size();
    const auto [rest, problem] = std::from_chars(number.data(), end, leg);
    if (problem != std::errc() || rest != end || leg >= legs_.size()) {
      return absl::InvalidArgumentError(kMessages);
    }
    whole = whole | LegSet::Only(leg);
  }
  if (!whole.Contains(0)) {
    return absl::InvalidArgumentError("mirror: the first leg has to be one of the whole ones");
  }
  whole_before_ = whole;
  return absl::OkStatus();
}

absl::Status MirrorTarget::SetRecoveryRate(const std::string& word) {
  uint64_t rate = 0;
  const char* end = word.data() + word.size();
  const auto [rest, problem] = std::from_chars(word.data(), end, rate);
  if (problem != std::errc() || rest != end) return absl::InvalidArgumentError(kMessages);
  host_.reactors().RunOn(home_.index(), [this, rate] { return SetRate(rate); });
  return absl::OkStatus();
}

absl::StatusOr<std::string> MirrorTarget::Message(std::span<const std::string> words) {
  if (words.size() == 2 && words[0] == "recovery_rate") {
    RETURN_IF_ERROR(SetRecoveryRate(words[1]));
    return "";
  }
  if (words.empty() || words[0] != "whole_legs") return absl::InvalidArgumentError(kMessages);
  if (words.size() > 1) {
    RETURN_IF_ERROR(SetWholeLegs(words.subspan(1)));
    return "";
  }
  std::string text;
  for (size_t leg : WholeLegs()) absl::StrAppend(&text, text.empty() ? "" : " ", leg);
  return text;
}

}  // namespace sectormap::targets
