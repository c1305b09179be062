// SPDX-License-Identifier: Apache-2.0
#include "server/exports/durable_units.h"

#include <utility>

#include "core/base/check.h"

namespace sectormap::exports {

// The job is posted back to the reactor that is suspending just now, so that it cannot be resumed
// before it has suspended.
class DurableUnits::Awaiter {
 public:
  Awaiter(DurableUnits& owner, Job& job) : owner_(owner), job_(job) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> caller) {
    job_.caller = caller;
    absl::MutexLock hold(&owner_.mutex_);
    owner_.jobs_.push_back(&job_);
  }
  void await_resume() noexcept {}

 private:
  DurableUnits& owner_;
  Job& job_;
};

DurableUnits::DurableUnits(state::StateStore& store) : store_(store), thread_([this] { Run(); }) {}

DurableUnits::~DurableUnits() {
  {
    absl::MutexLock hold(&mutex_);
    CHECK(jobs_.empty());
    stopping_ = true;
  }
  thread_.join();
}

Task<absl::Status> DurableUnits::SaveReservations(std::string device_identity, std::string record) {
  Job job{[&] { return store_.PutReservation(device_identity, record); }, Reactor::Current(),
          absl::OkStatus(), nullptr};
  co_await Awaiter(*this, job);
  co_return std::move(job.result);
}

Task<absl::Status> DurableUnits::SaveBlockBytes(std::string device_identity, uint32_t bytes) {
  Job job{[&] { return store_.PutBlockBytes(device_identity, bytes); }, Reactor::Current(),
          absl::OkStatus(), nullptr};
  co_await Awaiter(*this, job);
  co_return std::move(job.result);
}

void DurableUnits::Run() {
  const auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !jobs_.empty() || stopping_;
  };
  while (true) {
    Job* job = nullptr;
    {
      absl::MutexLock hold(&mutex_, absl::Condition(&has_work));
      if (jobs_.empty()) return;
      job = jobs_.front();
      jobs_.pop_front();
    }
    job->result = job->work();
    job->reactor.Post([caller = job->caller] { caller.resume(); });
  }
}

}  // namespace sectormap::exports
