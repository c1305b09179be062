// SPDX-License-Identifier: Apache-2.0
// PortalAddresses: where the daemon listens, and which of that a discovery session is told (RFC
// 7143 Appendix C: every portal by which the initiator may reach the target). They are all in one
// portal group.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace sectormap::iscsi {

// Any thread. Addresses are ADDR:PORT or [ADDR]:PORT, numeric.
class PortalAddresses {
 public:
  void Add(std::string address);
  void Remove(std::string_view address);

  // For whom a connection's own end is `local`; that one comes first. In place of a wildcard stands
  // the connection's address. Who did not come over the loopback interface is not told addresses
  // there: they would be its own machine's.
  std::vector<std::string> ReachableFrom(const std::string& local) const;

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::string> addresses_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sectormap::iscsi
