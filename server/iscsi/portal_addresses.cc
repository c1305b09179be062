// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/portal_addresses.h"

#include <algorithm>
#include <utility>

namespace sectormap::iscsi {
namespace {

struct HostAndPort {
  explicit HostAndPort(std::string_view address) {
    const size_t colon = address.rfind(':');
    host = address.substr(0, colon);
    port = address.substr(colon + 1);
  }
  bool is_v6() const { return host.starts_with('['); }
  bool is_wildcard() const { return host == "0.0.0.0" || host == "[::]"; }
  bool is_loopback() const { return host.starts_with("127.") || host == "[::1]"; }

  std::string_view host, port;
};

}  // namespace

void PortalAddresses::Add(std::string address) {
  absl::MutexLock lock(&mutex_);
  addresses_.push_back(std::move(address));
}

void PortalAddresses::Remove(std::string_view address) {
  absl::MutexLock lock(&mutex_);
  std::erase(addresses_, address);
}

std::vector<std::string> PortalAddresses::ReachableFrom(const std::string& local) const {
  const HostAndPort own(local);
  std::vector<std::string> reachable = {local};
  absl::MutexLock lock(&mutex_);
  for (const std::string& address : addresses_) {
    const HostAndPort portal(address);
    std::string told = address;
    if (portal.is_wildcard()) {
      if (portal.is_v6() != own.is_v6()) continue;
      told = std::string(own.host) + ":" + std::string(portal.port);
    } else if (portal.is_loopback() && !own.is_loopback()) {
      continue;
    }
    if (std::ranges::find(reachable, told) == reachable.end()) reachable.push_back(std::move(told));
  }
  return reachable;
}

}  // namespace sectormap::iscsi
