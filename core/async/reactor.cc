// SPDX-License-Identifier: Apache-2.0
#include "core/async/reactor.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace sectormap {
namespace {

thread_local Reactor* current_reactor = nullptr;

constexpr char kAllowingProfile[] =
    "a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register.";

// Docker forbids with EPERM, podman with ENOSYS, as if the kernel knew no io_uring.
absl::Status RingError(int error) {
  std::string reason = absl::StrCat("io_uring is not usable: ", std::strerror(error), ". ");
  switch (error) {
    case ENOSYS:
      absl::StrAppend(
          &reason,
          "Linux 5.11 or newer, built with CONFIG_IO_URING, is needed, and in a container ",
          kAllowingProfile);
      break;
    case EPERM:
    case EACCES:
      absl::StrAppend(&reason,
                      "Set the sysctl kernel.io_uring_disabled to 0, or use in a container ",
                      kAllowingProfile);
      break;
    case ENOMEM:
      absl::StrAppend(&reason, "Raise the limit of locked memory (ulimit -l, LimitMEMLOCK=).");
      break;
    default:
      absl::StrAppend(&reason, "See dmesg.");
  }
  return absl::UnavailableError(reason);
}

}  // namespace

Reactor& Reactor::Current() {
  CHECK(current_reactor != nullptr);
  return *current_reactor;
}

Reactor* Reactor::CurrentOrNull() { return current_reactor; }

absl::StatusOr<std::unique_ptr<Reactor>> Reactor::Create(int index, const Clock& clock,
                                                         nanoseconds poll_window) {
  CHECK(index >= 0 && index < kMaxReactors);
  std::unique_ptr<Reactor> reactor(new Reactor(index, clock, poll_window));
  // The ring is made disabled-for-others only by the thread that runs it: R_DISABLED, enabled in
  // Run(), lets SINGLE_ISSUER bind to that thread. Kernels before 6.1 lack these flags.
  io_uring_params params{};
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP;
  int result = io_uring_queue_init_params(kRingEntries, &reactor->ring_, &params);
  if (result == -EINVAL) {
    params = {};
    params.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP;
    reactor->poll_ = PollPolicy(nanoseconds::zero());
    result = io_uring_queue_init_params(kRingEntries, &reactor->ring_, &params);
  }
  if (result < 0) return RingError(-result);
  // Waiting with a time-out, without a request of its own for it.
  if ((params.features & IORING_FEAT_EXT_ARG) == 0) return RingError(ENOSYS);
  reactor->wakeup_fd_ = eventfd(0, EFD_CLOEXEC);
  if (reactor->wakeup_fd_ < 0) return absl::ErrnoToStatus(errno, "eventfd");
  return reactor;
}

Reactor::~Reactor() {
  if (ring_.ring_fd > 0) io_uring_queue_exit(&ring_);
  if (wakeup_fd_ >= 0) close(wakeup_fd_);
}

void Reactor::Run() {
  CHECK(current_reactor == nullptr);
  current_reactor = this;
  // liburing 2.3 declares io_uring_enable_rings() and does not export it.
  CHECK(syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) ==
        0);
  // Refused by kernels before 5.15, which have a few for each core.
  std::array<unsigned, 2> workers = {kRingWorkers, 0};
  static_cast<void>(io_uring_register_iowq_max_workers(&ring_, workers.data()));
  ArmWakeup();
  turn_start_ = clock_.Now();
  while (!stopped_) {
    RunPosted();
    RunTimers();
    RunReady();
    RunTurnEnds();
    RunYielded();
    RunDepartures();
    const bool may_sleep = ready_.empty() && yielded_.empty() && turn_ends_.empty() && !stopped_;
    const MonotonicTime now = clock_.Now();
    const auto busy = static_cast<uint64_t>((now - turn_start_).count());
    busy_ns_.store(busy_ns_.load(std::memory_order_relaxed) + busy, std::memory_order_relaxed);
    turn_start_ = now;
    turns_.store(turns_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    EnterRing(may_sleep);
  }
  current_reactor = nullptr;
}

void Reactor::Stop() {
  Post([this] { stopped_ = true; });
}

void Reactor::Post(absl::AnyInvocable<void()> call) {
  bool wake;
  {
    absl::MutexLock lock(&mutex_);
    wake = posted_.empty();
    posted_.push_back(std::move(call));
    has_posted_.store(true, std::memory_order_release);
  }
  if (wake && current_reactor != this) {
    const uint64_t one = 1;
    CHECK(write(wakeup_fd_, &one, sizeof one) == sizeof one);
  }
}

void Reactor::Spawn(Task<void> task) {
  if (current_reactor == this) {
    Detach(std::move(task));
    return;
  }
  Post([owned = std::move(task)]() mutable { Detach(std::move(owned)); });
}

void Reactor::AtTurnEnd(TurnEnd& call, size_t bytes) {
  turn_end_bytes_ += bytes;
  if (call.asked_) return;
  call.asked_ = true;
  turn_ends_.push_back(&call);
}

void Reactor::Forget(TurnEnd& call) {
  std::ranges::replace(turn_ends_, &call, nullptr);
  std::ranges::replace(running_turn_ends_, &call, nullptr);
}

Reactor::TimerId Reactor::CallAt(MonotonicTime when, absl::AnyInvocable<void()> call) {
  TimerId id{when, next_timer_++};
  timers_.emplace(id, std::move(call));
  return id;
}

void Reactor::CancelTimer(const TimerId& id) { timers_.erase(id); }

Task<void> Reactor::Sleep(nanoseconds delay) {
  class Awaiter {
   public:
    Awaiter(Reactor& reactor, nanoseconds delay) : reactor_(reactor), delay_(delay) {}
    bool await_ready() const noexcept { return delay_ <= nanoseconds::zero(); }
    void await_suspend(std::coroutine_handle<> handle) {
      reactor_.CallAfter(delay_, [handle] { handle.resume(); });
    }
    void await_resume() noexcept {}

   private:
    Reactor& reactor_;
    nanoseconds delay_;
  };
  co_await Awaiter(*this, delay);
}

io_uring_sqe* Reactor::NextSqe() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  while (sqe == nullptr) {
    io_uring_submit(&ring_);
    sqe = io_uring_get_sqe(&ring_);
  }
  return sqe;
}

// The read of the eventfd is told apart from completions by its null user data.
void Reactor::ArmWakeup() {
  io_uring_sqe* sqe = NextSqe();
  io_uring_prep_read(sqe, wakeup_fd_, &wakeup_value_, sizeof wakeup_value_, 0);
  io_uring_sqe_set_data(sqe, nullptr);
}

void Reactor::RunPosted() {
  if (!has_posted_.load(std::memory_order_acquire)) return;
  {
    absl::MutexLock lock(&mutex_);
    running_posted_.swap(posted_);
    has_posted_.store(false, std::memory_order_release);
  }
  for (auto& call : running_posted_) call();
  running_posted_.clear();
}

void Reactor::RunReady() {
  // Only what was ready at the start: what these make ready waits for the next round, so a pair of
  // coroutines that wake each other cannot keep the ring from being entered.
  running_.swap(ready_);
  for (std::coroutine_handle<> handle : running_) handle.resume();
  running_.clear();
}

void Reactor::RunTimers() {
  if (timers_.empty()) return;
  const MonotonicTime now = clock_.Now();
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    auto timer = timers_.extract(timers_.begin());
    timer.mapped()();
  }
}

void Reactor::RunYielded() {
  if (!yielded_.empty()) {
    for (std::coroutine_handle<> handle : yielded_) handle.resume();
    yielded_.clear();
    RunTurnEnds();
  }
  yielded_.swap(yielding_);
}

void Reactor::RunTurnEnds() {
  turn_end_bytes_ = 0;
  running_turn_ends_.swap(turn_ends_);
  // By index: a call may destroy another one, which Forget() then replaces by null.
  for (size_t i = 0; i < running_turn_ends_.size(); ++i) {
    TurnEnd* call = running_turn_ends_[i];
    if (call == nullptr) continue;
    call->asked_ = false;
    call->call_();
  }
  running_turn_ends_.clear();
}

void Reactor::RunDepartures() {
  for (const Departure& departure : departures_) {
    departure.to->Post([handle = departure.handle] { handle.resume(); });
  }
  departures_.clear();
}

void Reactor::FallAsleep() {
  if (timers_.empty()) {
    io_uring_submit_and_wait(&ring_, 1);
    return;
  }
  const nanoseconds wait =
      std::max(timers_.begin()->first.first - clock_.Now(), nanoseconds::zero());
  __kernel_timespec timeout{wait.count() / 1'000'000'000, wait.count() % 1'000'000'000};
  io_uring_cqe* cqe = nullptr;
  io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &timeout, nullptr);
}

// Something to do that needs no sleep. The flag says that the kernel has completions which it turns
// into entries of the queue when it is entered (DEFER_TASKRUN).
bool Reactor::HasEvents() const {
  return io_uring_cq_ready(&ring_) != 0 || has_posted_.load(std::memory_order_acquire) ||
         (__atomic_load_n(ring_.sq.kflags, __ATOMIC_ACQUIRE) & IORING_SQ_TASKRUN) != 0;
}

// What a read has left to be done before the next look.
bool Reactor::HasWork() const {
  return !turn_ends_.empty() || !ready_.empty() || !yielding_.empty() || !departures_.empty() ||
         io_uring_sq_ready(&ring_) != 0;
}

void Reactor::Await(ReadableAwaiter& reader) {
  if (trying_ == nullptr && poll_.ShouldPoll()) {
    trying_ = &reader;
  } else {
    AwaitByRing(reader);
  }
}

void Reactor::AwaitByRing(ReadableAwaiter& reader) {
  io_uring_sqe* sqe = NextSqe();
  io_uring_prep_poll_add(sqe, reader.fd_, POLLIN);
  io_uring_sqe_set_data(sqe, static_cast<Completion*>(&reader));
}

void Reactor::EndTrying() {
  if (trying_ != nullptr) AwaitByRing(*std::exchange(trying_, nullptr));
}

// The time from `turn_start_` on is spent looking, and the turn starts when something is found.
bool Reactor::PollFor(nanoseconds window) {
  if (io_uring_sq_ready(&ring_) != 0) io_uring_submit_and_get_events(&ring_);
  const MonotonicTime start = turn_start_;
  MonotonicTime end = start + window;
  if (!timers_.empty()) end = std::min(end, timers_.begin()->first.first);
  bool found = HasEvents();
  while (!found && turn_start_ < end) {
    if (trying_ != nullptr) {
      std::exchange(trying_, nullptr)->OnComplete(POLLIN);
      found = HasWork();
      if (found) break;
    }
    // Whoever else wants this core has it: a poll must not keep an initiator from running.
    sched_yield();
    waited_ = true;
    found = HasEvents();
    turn_start_ = clock_.Now();
  }
  const auto polled = static_cast<uint64_t>((turn_start_ - start).count());
  polled_ns_.store(polled_ns_.load(std::memory_order_relaxed) + polled, std::memory_order_relaxed);
  if (HasEvents()) {
    EndTrying();
    io_uring_submit_and_get_events(&ring_);
  }
  return found;
}

void Reactor::Wait() {
  if (poll_.ShouldPoll()) {
    const bool found = PollFor(poll_.window());
    poll_.Polled(found);
    if (found) return;
  }
  EndTrying();
  FallAsleep();
  const MonotonicTime woken = clock_.Now();
  if (poll_.window() != nanoseconds::zero()) {
    waited_ = true;
    poll_.Slept(woken - turn_start_);
  }
  turn_start_ = woken;
}

void Reactor::EnterRing(bool may_sleep) {
  waited_ = false;
  if (may_sleep && !has_posted_.load(std::memory_order_acquire)) {
    Wait();
  } else {
    EndTrying();
    io_uring_submit_and_get_events(&ring_);
  }
  // Bounded by what is there now: completions that these produce wait for the next turn.
  io_uring_cqe* batch[kRingEntries];
  const unsigned count = io_uring_peek_batch_cqe(&ring_, batch, kRingEntries);
  for (unsigned i = 0; i < count; ++i) {
    completed_.push_back(
        {static_cast<Completion*>(io_uring_cqe_get_data(batch[i])), batch[i]->res});
  }
  io_uring_cq_advance(&ring_, count);
  for (const auto& [completion, result] : completed_) {
    if (completion != nullptr) {
      completion->OnComplete(result);
    } else {
      ArmWakeup();
    }
  }
  completed_.clear();
}

}  // namespace sectormap
