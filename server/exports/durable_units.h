// SPDX-License-Identifier: Apache-2.0
// DurableUnits: what survives of a unit goes to the state store on a thread of its own, so that no
// reactor waits for a disk.
#pragma once

#include <coroutine>
#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor.h"
#include "server/scsi/lun.h"
#include "server/state/state_store.h"

namespace sectormap::exports {

class DurableUnits final : public scsi::UnitStore {
 public:
  // `store` outlives it.
  explicit DurableUnits(state::StateStore& store);
  // REQUIRES: no call is under way.
  ~DurableUnits() override;
  DurableUnits(const DurableUnits&) = delete;
  DurableUnits& operator=(const DurableUnits&) = delete;

  Task<absl::Status> SaveReservations(std::string device_identity, std::string record) override;
  Task<absl::Status> SaveBlockBytes(std::string device_identity, uint32_t bytes) override;

 private:
  struct Job {
    std::function<absl::Status()> work;
    Reactor& reactor;  // where the caller waits
    absl::Status result;
    std::coroutine_handle<> caller;
  };
  class Awaiter;

  void Run();

  state::StateStore& store_;
  absl::Mutex mutex_;
  std::deque<Job*> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sectormap::exports
