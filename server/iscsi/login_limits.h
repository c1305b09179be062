// SPDX-License-Identifier: Apache-2.0
// LoginLimits: how many connections may be in their login phase, or in a discovery session: whoever
// has not proved who they are gets a bounded part of our memory and descriptors.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace sectormap::iscsi {

// In all: a rack of initiators that come back together after a power cut, at about 50 KiB each.
inline constexpr int kMaxConnectionsInLogin = 512;
// From one address, so that one of them cannot keep the others out.
inline constexpr int kMaxConnectionsInLoginPerPeer = 128;

// Any thread.
class LoginLimits {
 public:
  // `peer` is an address without its port. False: too many; otherwise Leave() must follow.
  bool TryEnter(const std::string& peer) {
    absl::MutexLock lock(&mutex_);
    if (count_ >= kMaxConnectionsInLogin) return false;
    int& of_peer = by_peer_[peer];
    if (of_peer >= kMaxConnectionsInLoginPerPeer) return false;
    ++of_peer;
    ++count_;
    return true;
  }
  void Leave(const std::string& peer) {
    absl::MutexLock lock(&mutex_);
    --count_;
    auto place = by_peer_.find(peer);
    if (--place->second == 0) by_peer_.erase(place);
  }

  // "127.0.0.1:3260" -> "127.0.0.1", "[::1]:3260" -> "[::1]".
  static std::string WithoutPort(std::string_view address) {
    return std::string(address.substr(0, address.rfind(':')));
  }

 private:
  absl::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unordered_map<std::string, int> by_peer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sectormap::iscsi
