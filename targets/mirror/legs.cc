// SPDX-License-Identifier: Apache-2.0
#include "targets/mirror/legs.h"

namespace sectormap::targets {
namespace {

char Letter(uint8_t errors) {
  const auto has = [errors](LegError error) { return (errors & static_cast<uint8_t>(error)) != 0; };
  if (has(LegError::kFlush)) return 'F';
  if (has(LegError::kWrite)) return 'D';
  if (has(LegError::kResync)) return 'S';
  if (has(LegError::kRead)) return 'R';
  return 'A';
}

}  // namespace

BlockLimits Legs::limits() const {
  const auto of = [](const Leg& leg) {
    return MovedLimits(leg.device.device->limits(), leg.start);
  };
  BlockLimits limits = of(legs_.front());
  for (const Leg& leg : legs_) limits = StackedLimits(limits, of(leg));
  return limits;
}

void Legs::NoteError(size_t leg, LegError error) {
  const auto bit = static_cast<uint8_t>(error);
  const uint8_t before = errors_[leg].fetch_or(bit);
  if ((before & bit) == 0) host_.RaiseEvent();
}

void Legs::ForgetErrors() {
  for (auto& errors : errors_) errors.store(0);
}

size_t Legs::ChooseForRead(LegSet candidates) const {
  for (size_t leg : candidates) {
    if (errors_[leg].load(std::memory_order_relaxed) == 0) return leg;
  }
  return candidates.first();
}

std::string Legs::Health() const {
  std::string letters;
  for (size_t leg = 0; leg < legs_.size(); ++leg) {
    letters.push_back(Letter(errors_[leg].load(std::memory_order_relaxed)));
  }
  return letters;
}

}  // namespace sectormap::targets
