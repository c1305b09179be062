// SPDX-License-Identifier: Apache-2.0
// DurableReservations: persistent reservations go to the state store on a thread of their own, so
// that no reactor waits for a disk.
#pragma once

#include <coroutine>
#include <deque>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor.h"
#include "server/scsi/lun.h"
#include "server/state/state_store.h"

namespace sectormap::control {

class DurableReservations final : public scsi::ReservationStore {
 public:
  // `store` outlives it.
  explicit DurableReservations(state::StateStore& store);
  // REQUIRES: no Save is under way.
  ~DurableReservations() override;
  DurableReservations(const DurableReservations&) = delete;
  DurableReservations& operator=(const DurableReservations&) = delete;

  Task<absl::Status> Save(std::string device_identity, std::string record) override;

 private:
  struct Job {
    const std::string& identity;
    const std::string& record;
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

}  // namespace sectormap::control
