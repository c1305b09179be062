// SPDX-License-Identifier: Apache-2.0
// RefusingStore: a StateStore that can be told to refuse every change, as a full disk does, and
// that remembers what it was given: what a kill between two writes would leave.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/base/status_macros.h"
#include "server/state/state_store.h"

namespace sectormap::testing {

class RefusingStore final : public state::StateStore {
 public:
  explicit RefusingStore(std::unique_ptr<state::StateStore> store) : store_(std::move(store)) {}

  // OK: no longer.
  void Refuse(absl::Status status) {
    absl::MutexLock hold(&mutex_);
    refusal_ = std::move(status);
  }

  // The devices that were put, in order, since the last call.
  std::vector<state::DeviceRecord> TakePuts() {
    absl::MutexLock hold(&mutex_);
    return std::exchange(puts_, {});
  }

  // The identities that were deleted, in order, since the last call.
  std::vector<std::string> TakeDeletes() {
    absl::MutexLock hold(&mutex_);
    return std::exchange(deletes_, {});
  }

  absl::StatusOr<state::Contents> LoadAll() override { return store_->LoadAll(); }
  absl::Status PutDevice(const state::DeviceRecord& device) override {
    RETURN_IF_ERROR(refusal());
    RETURN_IF_ERROR(store_->PutDevice(device));
    absl::MutexLock hold(&mutex_);
    puts_.push_back(device);
    return absl::OkStatus();
  }
  absl::Status DeleteDevice(std::string_view identity) override {
    RETURN_IF_ERROR(refusal());
    RETURN_IF_ERROR(store_->DeleteDevice(identity));
    absl::MutexLock hold(&mutex_);
    deletes_.emplace_back(identity);
    return absl::OkStatus();
  }
  absl::Status PutExport(const state::TargetRecord& target,
                         const state::ExportRecord& entry) override {
    RETURN_IF_ERROR(refusal());
    return store_->PutExport(target, entry);
  }
  absl::Status DeleteExports(std::span<const state::ExportKey> exports) override {
    RETURN_IF_ERROR(refusal());
    return store_->DeleteExports(exports);
  }
  absl::Status PutReservation(std::string_view identity, std::string_view record) override {
    RETURN_IF_ERROR(refusal());
    return store_->PutReservation(identity, record);
  }
  absl::Status PutBlockBytes(std::string_view identity, uint32_t bytes) override {
    RETURN_IF_ERROR(refusal());
    return store_->PutBlockBytes(identity, bytes);
  }
  absl::Status Apply(const state::Changes& changes) override {
    RETURN_IF_ERROR(refusal());
    return store_->Apply(changes);
  }
  absl::StatusOr<std::vector<std::string>> UnusedFiles() override { return store_->UnusedFiles(); }
  absl::StatusOr<std::string> Reservation(std::string_view identity) override {
    return store_->Reservation(identity);
  }
  absl::StatusOr<uint32_t> BlockBytes(std::string_view identity) override {
    return store_->BlockBytes(identity);
  }

 private:
  absl::Status refusal() {
    absl::MutexLock hold(&mutex_);
    return refusal_;
  }

  const std::unique_ptr<state::StateStore> store_;
  absl::Mutex mutex_;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  std::vector<state::DeviceRecord> puts_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> deletes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sectormap::testing
