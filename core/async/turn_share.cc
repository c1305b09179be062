// SPDX-License-Identifier: Apache-2.0
#include "core/async/turn_share.h"

namespace sectormap {
namespace {

// Two writes of 128 KiB, or two receive buffers of a session: with that the streams that take turns
// cost no more than one alone.
constexpr size_t kBesideHeavy = 256 * 1024;
// 10 to 20 us of copying, as much as a 4 KiB read takes in all.
constexpr size_t kBesideLight = 32 * 1024;
// A queue of 100 reads, or one write of 4 KiB.
constexpr size_t kLightBytes = 8 * 1024;
// How many turns a light stream counts after its last. Beside a heavy one they take some 20 us: so
// this is longer than between two commands of a session that has one at work.
constexpr uint64_t kLightTurns = 64;

}  // namespace

size_t TurnShare::BytesIn(uint64_t turn) const {
  return turn < light_until_ ? kBesideLight : kBesideHeavy;
}

void TurnShare::OnTurn(uint64_t turn, size_t appetite) {
  if (appetite < kLightBytes) light_until_ = turn + kLightTurns;
}

}  // namespace sectormap
