// SPDX-License-Identifier: Apache-2.0
// Reactor: one thread, one io_uring for sockets, files and timers. Everything that runs on it runs
// to its next suspension without being interrupted, so what belongs to one reactor needs no lock.
//
// A turn of the loop: posted calls and ready coroutines, then the calls asked for with AtTurnEnd
// (one gathered send for all replies of the turn), then those that switch to another reactor are
// sent off, then one io_uring_enter that submits everything and waits.
#pragma once

#include <liburing.h>

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/async/clock.h"
#include "core/async/poll_policy.h"
#include "core/async/task.h"
#include "core/async/turn_share.h"

namespace sectormap {

// More threads than this help nobody; sharded objects have one slot for each.
inline constexpr int kMaxReactors = 64;

// Submission queue entries of a ring. A full queue is submitted early, so this bounds the batch,
// not the operations in flight.
inline constexpr unsigned kRingEntries = 1024;

// Kernel threads (io-wq) for the ring's calls that wait, as fsync(2). The kernel makes one more
// only when all it has are waiting: so many bound what devices that hang can take, FileDevice's few
// each, before others find none.
inline constexpr unsigned kRingWorkers = 256;

class Reactor {
 public:
  // `index` is this reactor's place in the pool, 0 <= index < kMaxReactors. `clock` outlives it.
  // `poll_window`: see PollPolicy; a kernel before 6.1 never polls.
  // Fails, saying what to change, if io_uring is missing or forbidden.
  static absl::StatusOr<std::unique_ptr<Reactor>> Create(
      int index, const Clock& clock, nanoseconds poll_window = nanoseconds::zero());
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  // REQUIRES: called on a reactor's thread.
  static Reactor& Current();
  // Null on any other thread.
  static Reactor* CurrentOrNull();

  int index() const { return index_; }
  const Clock& clock() const { return clock_; }

  // Runs the loop on the calling thread until Stop().
  void Run();

  // Any thread. Whoever owns work on the reactor ends it first.
  void Stop();

  // Any thread: runs `call` on the reactor, in the order of posting.
  void Post(absl::AnyInvocable<void()> call);

  // Any thread: starts `task` on the reactor and lets it go (see Detach).
  void Spawn(Task<void> task);

  // On the reactor: resumes `handle` in this turn.
  void Ready(std::coroutine_handle<> handle) { ready_.push_back(handle); }

  // On the reactor: something to run once at the end of this turn, before the ring is entered.
  // Intrusive, so that asking allocates nothing; asking twice in a turn runs it once.
  class TurnEnd {
   public:
    explicit TurnEnd(std::function<void()> call) : call_(std::move(call)) {}
    TurnEnd(const TurnEnd&) = delete;
    TurnEnd& operator=(const TurnEnd&) = delete;
    // What was asked for and has not run is forgotten.
    ~TurnEnd() {
      if (asked_) Current().Forget(*this);
    }

   private:
    friend class Reactor;
    std::function<void()> call_;
    bool asked_ = false;
  };
  // A call that asks again while it runs has its turn in the next one. `bytes`: about how much
  // memory waits for the call, beyond what was told before.
  void AtTurnEnd(TurnEnd& call, size_t bytes = 0);

  // On the reactor: runs what was asked for so far if much memory waits for it, as if the turn
  // ended here. For whoever does many pieces of work in a turn, between two of them.
  void EndTurnIfFull() {
    if (turn_end_bytes_ >= kTurnEndBytesMax && running_turn_ends_.empty()) RunTurnEnds();
  }
  // What was made in a turn is to be in the processor's caches still when it is sent.
  static constexpr size_t kTurnEndBytesMax = 512 * 1024;

  // On the reactor: resumes `handle` in the next turn, when everybody else has had it and its turn
  // ends have been run.
  void AfterOthers(std::coroutine_handle<> handle) { yielding_.push_back(handle); }

  // co_await reactor.Switch(): goes on on that reactor's thread (at once, if it is this one).
  // REQUIRES: on a reactor's thread; another thread uses Spawn.
  class SwitchAwaiter {
   public:
    explicit SwitchAwaiter(Reactor& to) : to_(to) {}
    bool await_ready() const noexcept { return CurrentOrNull() == &to_; }
    void await_suspend(std::coroutine_handle<> handle) { Current().Depart(to_, handle); }
    void await_resume() noexcept {}

   private:
    Reactor& to_;
  };
  SwitchAwaiter Switch() { return SwitchAwaiter(*this); }

  // --- Timers, on the reactor only ---

  using TimerId = std::pair<MonotonicTime, uint64_t>;
  TimerId CallAt(MonotonicTime when, absl::AnyInvocable<void()> call);
  TimerId CallAfter(nanoseconds delay, absl::AnyInvocable<void()> call) {
    return CallAt(clock_.Now() + delay, std::move(call));
  }
  // A timer that has fired is ignored.
  void CancelTimer(const TimerId& id);
  Task<void> Sleep(nanoseconds delay);

  // --- io_uring, on the reactor only ---

  // co_await reactor.Submit([&](io_uring_sqe* sqe) { io_uring_prep_read(sqe, ...); })
  // gives the operation's result: what the system call would return, or a negative errno. The
  // buffers belong to the kernel until then, and the coroutine must not be destroyed.
  class Completion {
   public:
    virtual void OnComplete(int result) = 0;

   protected:
    ~Completion() = default;
  };

  template <typename Prepare>
  class RingAwaiter final : public Completion {
   public:
    RingAwaiter(Reactor& reactor, Prepare prepare)
        : reactor_(reactor), prepare_(std::move(prepare)) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      handle_ = handle;
      io_uring_sqe* sqe = reactor_.NextSqe();
      prepare_(sqe);
      io_uring_sqe_set_data(sqe, static_cast<Completion*>(this));
    }
    int await_resume() noexcept { return result_; }
    void OnComplete(int result) override {
      result_ = result;
      handle_.resume();
    }

   private:
    Reactor& reactor_;
    Prepare prepare_;
    std::coroutine_handle<> handle_;
    int result_ = 0;
  };
  template <typename Prepare>
  RingAwaiter<Prepare> Submit(Prepare prepare) {
    return RingAwaiter<Prepare>(*this, std::move(prepare));
  }

  // co_await reactor.Readable(fd): until a read of the socket may give more than EAGAIN. While the
  // reactor looks for events without sleeping, one that waits is told so at each look, in vain or
  // not: a read costs what a poll costs, and the peer has no wake-up to pay.
  class ReadableAwaiter final : public Completion {
   public:
    ReadableAwaiter(Reactor& reactor, int fd) : reactor_(reactor), fd_(fd) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      handle_ = handle;
      reactor_.Await(*this);
    }
    void await_resume() noexcept {}
    void OnComplete(int /*events*/) override { handle_.resume(); }

   private:
    friend class Reactor;
    Reactor& reactor_;
    const int fd_;
    std::coroutine_handle<> handle_;
  };
  ReadableAwaiter Readable(int fd) { return ReadableAwaiter(*this, fd); }

  // On the reactor: what its streams may take of a turn.
  TurnShare& share() { return share_; }

  // On the reactor: true if this turn has one event only, so that nobody waits for the turn to end
  // but who has yielded.
  bool alone() const { return completed_.size() <= 1 && running_.empty(); }

  // On the reactor: true if this turn's events had to be waited for. False where it never polls:
  // there it cannot tell.
  bool waited() const { return waited_; }

  // For statistics: time in which the loop had work, time in which it looked for some without
  // sleeping, and turns taken. Any thread.
  nanoseconds busy_time() const { return nanoseconds(busy_ns_.load(std::memory_order_relaxed)); }
  nanoseconds polled_time() const {
    return nanoseconds(polled_ns_.load(std::memory_order_relaxed));
  }
  uint64_t turns() const { return turns_.load(std::memory_order_relaxed); }

 private:
  Reactor(int index, const Clock& clock, nanoseconds poll_window)
      : index_(index), clock_(clock), poll_(poll_window) {}

  // At the end of this turn `handle` goes on on `to`. Not at once: the coroutines that await it are
  // still on this thread's stack and have not yet noted that they wait (Task::await_suspend), and
  // the other thread could reach its end before they have.
  void Depart(Reactor& to, std::coroutine_handle<> handle) { departures_.push_back({&to, handle}); }
  void Forget(TurnEnd& call);

  io_uring_sqe* NextSqe();
  void ArmWakeup();
  void RunPosted();
  void RunReady();
  void RunYielded();
  void RunTimers();
  void RunTurnEnds();
  void RunDepartures();
  void EnterRing(bool may_sleep);
  void Wait();
  bool PollFor(nanoseconds window);
  bool HasEvents() const;
  bool HasWork() const;
  void Await(ReadableAwaiter& reader);
  void AwaitByRing(ReadableAwaiter& reader);
  void EndTrying();
  void FallAsleep();

  const int index_;
  const Clock& clock_;

  struct Departure {
    Reactor* to;
    std::coroutine_handle<> handle;
  };
  struct Completed {
    Completion* completion;
    int result;
  };

  // Touched by the reactor's thread only. Each list has a twin that is being run while the first is
  // filled again, so that a turn allocates nothing once both have grown.
  io_uring ring_{};
  PollPolicy poll_;
  TurnShare share_;
  bool stopped_ = false;
  std::vector<std::coroutine_handle<>> ready_;
  std::vector<std::coroutine_handle<>> running_;
  std::vector<std::coroutine_handle<>> yielding_;  // in this turn, for the next one
  std::vector<std::coroutine_handle<>> yielded_;   // in the last one
  std::vector<TurnEnd*> turn_ends_;
  std::vector<TurnEnd*> running_turn_ends_;
  size_t turn_end_bytes_ = 0;  // wait for turn_ends_
  std::vector<Departure> departures_;
  std::vector<Completed> completed_;
  std::vector<absl::AnyInvocable<void()>> running_posted_;
  std::map<TimerId, absl::AnyInvocable<void()>> timers_;
  uint64_t next_timer_ = 0;
  uint64_t wakeup_value_ = 0;
  bool waited_ = false;  // for the events of this turn
  MonotonicTime turn_start_;
  // The one that reads at each look. An event of the ring sends it there, too: those who wait there
  // are not passed over for it.
  ReadableAwaiter* trying_ = nullptr;

  // How other threads reach it.
  int wakeup_fd_ = -1;
  absl::Mutex mutex_;
  std::vector<absl::AnyInvocable<void()>> posted_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> has_posted_{false};

  std::atomic<uint64_t> busy_ns_{0};
  std::atomic<uint64_t> polled_ns_{0};
  std::atomic<uint64_t> turns_{0};
};

}  // namespace sectormap
