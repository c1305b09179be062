// SPDX-License-Identifier: Apache-2.0
// Tells ThreadSanitizer what absl's locks order. Debian's absl is not instrumented, so without this
// every use of an absl::Mutex looks like a race. The linker sends our calls through here (--wrap,
// in cmake/sectormap.cmake); in other builds this file is not compiled.
//
// A lock is reported as an acquire of its address, an unlock as a release: races are found,
// deadlocks are not looked for. Conditions are run by whichever thread unlocks, inside absl, after
// the release was reported: their reads are left out.
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace {

// absl keeps a graph of lock orders, which ThreadSanitizer sees half of. The other builds keep it.
[[gnu::constructor]] void LeaveLockOrdersAlone() {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
}

}  // namespace

extern "C" {

void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);

#define SECTORMAP_WRAP(result, symbol, ...) \
  result __real_##symbol(__VA_ARGS__);      \
  result __wrap_##symbol(__VA_ARGS__)

// absl::Mutex
SECTORMAP_WRAP(void, _ZN4absl7debian35Mutex4LockEv, void* mutex) {
  __real__ZN4absl7debian35Mutex4LockEv(mutex);
  __tsan_acquire(mutex);
}
SECTORMAP_WRAP(void, _ZN4absl7debian35Mutex6UnlockEv, void* mutex) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  __real__ZN4absl7debian35Mutex6UnlockEv(mutex);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
SECTORMAP_WRAP(bool, _ZN4absl7debian35Mutex7TryLockEv, void* mutex) {
  const bool locked = __real__ZN4absl7debian35Mutex7TryLockEv(mutex);
  if (locked) __tsan_acquire(mutex);
  return locked;
}
SECTORMAP_WRAP(void, _ZN4absl7debian35Mutex10ReaderLockEv, void* mutex) {
  __real__ZN4absl7debian35Mutex10ReaderLockEv(mutex);
  __tsan_acquire(mutex);
}
SECTORMAP_WRAP(void, _ZN4absl7debian35Mutex12ReaderUnlockEv, void* mutex) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  __real__ZN4absl7debian35Mutex12ReaderUnlockEv(mutex);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
SECTORMAP_WRAP(void, _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE, void* mutex,
               const absl::Condition& condition) {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  __real__ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE(mutex, condition);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
}
SECTORMAP_WRAP(void, _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE, void* mutex,
               const absl::Condition& condition) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  __real__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(mutex, condition);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
}
SECTORMAP_WRAP(bool, _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE,
               void* mutex, const absl::Condition& condition, absl::Duration timeout) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool met = __real__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
      mutex, condition, timeout);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
  return met;
}

// absl::Notification
SECTORMAP_WRAP(void, _ZN4absl7debian312Notification6NotifyEv, void* notification) {
  __tsan_release(notification);
  __real__ZN4absl7debian312Notification6NotifyEv(notification);
}
SECTORMAP_WRAP(void, _ZNK4absl7debian312Notification19WaitForNotificationEv, void* notification) {
  __real__ZNK4absl7debian312Notification19WaitForNotificationEv(notification);
  __tsan_acquire(notification);
}
SECTORMAP_WRAP(bool, _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE,
               void* notification, absl::Duration timeout) {
  const bool notified =
      __real__ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE(
          notification, timeout);
  if (notified) __tsan_acquire(notification);
  return notified;
}

// absl::BlockingCounter
SECTORMAP_WRAP(bool, _ZN4absl7debian315BlockingCounter14DecrementCountEv, void* counter) {
  __tsan_release(counter);
  return __real__ZN4absl7debian315BlockingCounter14DecrementCountEv(counter);
}
SECTORMAP_WRAP(void, _ZN4absl7debian315BlockingCounter4WaitEv, void* counter) {
  __real__ZN4absl7debian315BlockingCounter4WaitEv(counter);
  __tsan_acquire(counter);
}

}  // extern "C"
