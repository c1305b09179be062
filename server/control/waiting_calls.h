// SPDX-License-Identifier: Apache-2.0
// WaitingCalls: how many calls of one kind may be under way. Such calls may wait (for their turn,
// for I/O, for an operation) and hold a thread each meanwhile. Each kind has its share of them, so
// that what only reads is answered whatever waits.
#pragma once

#include <grpcpp/support/status.h>

#include <atomic>
#include <string>
#include <utility>

namespace sectormap::control {

// They are made when they are needed.
inline constexpr int kControlThreadsMax = 512;

inline constexpr int kDeviceChangesMax = 128;
inline constexpr int kResumesMax = 32;  // besides: they end what most others wait for
inline constexpr int kExportChangesMax = 128;
inline constexpr int kOperationStartsMax = 64;
inline constexpr int kOperationWaitersMax = 64;

// What is left is for calls that do not wait, and for gRPC's own threads.
static_assert(kDeviceChangesMax + kResumesMax + kExportChangesMax + kOperationStartsMax +
                  kOperationWaitersMax <=
              kControlThreadsMax - 64);

// Any thread.
class WaitingCalls {
 public:
  // `refusal` follows the number of those that are under way.
  WaitingCalls(int max, std::string refusal) : max_(max), refusal_(std::move(refusal)) {}
  WaitingCalls(const WaitingCalls&) = delete;
  WaitingCalls& operator=(const WaitingCalls&) = delete;

  // One of them, for as long as it lives. The calls outlive it.
  class One {
   public:
    // `more` may be under way than of others.
    explicit One(WaitingCalls& calls, int more = 0);
    ~One() { calls_.count_.fetch_sub(1, std::memory_order_relaxed); }
    One(const One&) = delete;
    One& operator=(const One&) = delete;

    // ResourceExhausted: there are too many.
    grpc::Status status() const;

   private:
    WaitingCalls& calls_;
    const int max_;
    const bool fits_;
  };

 private:
  const int max_;
  const std::string refusal_;
  std::atomic<int> count_{0};
};

}  // namespace sectormap::control
