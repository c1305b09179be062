// SPDX-License-Identifier: Apache-2.0
// Portal: listens on one address and turns every connection into an iSCSI session on one reactor.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/async/reactor_pool.h"
#include "server/iscsi/command_memory.h"
#include "server/iscsi/login_limits.h"
#include "server/iscsi/portal_addresses.h"
#include "server/iscsi/session_log.h"
#include "server/iscsi/target_directory.h"

namespace sectormap::iscsi {

// What the portals of a daemon share: each reactor's memory for commands and count of connections,
// the bounds on logins, what is logged of them, and where they all listen. Any thread, but for the
// memory, of which only the figures are.
class PortalResources {
 public:
  explicit PortalResources(const ReactorPool& reactors,
                           size_t command_memory_bytes = kDefaultCommandMemoryBytes);

  CommandMemory& memory(int reactor) { return *memories_[reactor]; }
  const CommandMemory& memory(int reactor) const { return *memories_[reactor]; }
  int reactors() const { return static_cast<int>(memories_.size()); }
  LoginLimits& logins() { return logins_; }
  SessionLog& log() { return log_; }
  PortalAddresses& addresses() { return addresses_; }

  // The reactor with the fewest connections, which has one more from now on.
  int TakeLeastLoaded();
  void Leave(int reactor) { --connections_[reactor]; }

 private:
  std::vector<std::unique_ptr<CommandMemory>> memories_;
  std::vector<std::atomic<int>> connections_;
  LoginLimits logins_;
  SessionLog log_;
  PortalAddresses addresses_;
};

class Portal {
 public:
  // `address` is ADDR:PORT or [ADDR]:PORT; port 0 takes a free one. Both references outlive the
  // portal. Portals of one daemon are given the same `resources`; null: its own. Fails, saying
  // which option to change, if the address is in use or not ours.
  static absl::StatusOr<std::unique_ptr<Portal>> Listen(
      std::string_view address, ReactorPool& reactors, TargetDirectory& targets,
      std::shared_ptr<PortalResources> resources = nullptr);

  // Stop() must have been called.
  virtual ~Portal() = default;

  // ADDR:PORT with the port that was bound.
  virtual std::string address() const = 0;

  // Control thread: stops accepting, asks every session to log out (async event 1), waits for at
  // most kLogoutGrace, closes the rest, and returns when nothing of it runs any more. A second call
  // returns at once.
  virtual void Stop() = 0;
};

}  // namespace sectormap::iscsi
