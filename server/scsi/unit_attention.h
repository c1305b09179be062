// SPDX-License-Identifier: Apache-2.0
// The unit attention conditions that wait for one nexus (SAM-5 §5.14).
#pragma once

#include <array>
#include <cstddef>
#include <optional>

#include "server/scsi/sense.h"

namespace sectormap::scsi {

// First in, first out; a condition that waits already is not queued twice. Not thread-safe.
class AttentionQueue {
 public:
  // More kinds than this do not exist here, so nothing is ever lost.
  static constexpr size_t kCapacity = 11;

  bool empty() const { return size_ == 0; }

  void Add(SenseCode code) {
    for (size_t i = 0; i < size_; ++i) {
      if (codes_[i] == code) return;
    }
    if (size_ < kCapacity) codes_[size_++] = code;
  }

  std::optional<SenseCode> Take() {
    if (size_ == 0) return std::nullopt;
    const SenseCode first = codes_[0];
    --size_;
    for (size_t i = 0; i < size_; ++i) codes_[i] = codes_[i + 1];
    return first;
  }

 private:
  std::array<SenseCode, kCapacity> codes_{};
  size_t size_ = 0;
};

}  // namespace sectormap::scsi
