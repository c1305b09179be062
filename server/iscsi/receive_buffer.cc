// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/receive_buffer.h"

#include <utility>
#include <vector>

#include "core/base/check.h"

namespace sectormap::iscsi {
namespace {

// A turn of many connections needs one at a time, and one more for each that waits for the rest of
// a PDU of more than kPutAsideBytes. 1 MiB.
constexpr size_t kKeptMax = 4;

std::vector<std::unique_ptr<std::byte[]>>& KeptByThisThread() {
  thread_local std::vector<std::unique_ptr<std::byte[]>> kept;
  return kept;
}

}  // namespace

void ReceiveBuffer::Take() {
  CHECK(bytes_ == nullptr);
  auto& kept = KeptByThisThread();
  if (kept.empty()) {
    // Not value-initialised: pages that nothing is received into stay untouched.
    bytes_.reset(new std::byte[kReceiveBufferBytes]);
    return;
  }
  bytes_ = std::move(kept.back());
  kept.pop_back();
}

void ReceiveBuffer::GiveBack() {
  if (bytes_ == nullptr) return;
  auto& kept = KeptByThisThread();
  if (kept.size() < kKeptMax) {
    kept.push_back(std::move(bytes_));
  } else {
    bytes_.reset();
  }
}

}  // namespace sectormap::iscsi
