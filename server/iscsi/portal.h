// SPDX-License-Identifier: Apache-2.0
// Portal: listens on one address and turns every connection into an iSCSI session on one reactor.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/async/reactor_pool.h"
#include "server/iscsi/target_directory.h"

namespace sectormap::iscsi {

class Portal {
 public:
  // `address` is ADDR:PORT or [ADDR]:PORT; port 0 takes a free one. Both references outlive the
  // portal. Fails, saying which option to change, if the address is in use or not ours.
  static absl::StatusOr<std::unique_ptr<Portal>> Listen(std::string_view address,
                                                        ReactorPool& reactors,
                                                        TargetDirectory& targets);

  // Stop() must have been called.
  virtual ~Portal() = default;

  // ADDR:PORT with the port that was bound.
  virtual std::string address() const = 0;

  // Control thread: stops accepting, asks every session to log out (async event 1), waits for at
  // most kLogoutGrace, closes the rest, and returns when nothing of it runs any more.
  virtual void Stop() = 0;
};

}  // namespace sectormap::iscsi
