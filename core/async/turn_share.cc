// SPDX-License-Identifier: Apache-2.0
#include "core/async/turn_share.h"

namespace sectormap {
namespace {

// Two writes of 128 KiB, or 63 of 4 KiB: with that, streams that take turns cost no more than one
// alone.
constexpr size_t kBesideHeavy = 256 * 1024;
// 10 to 20 us of copying, as much as a 4 KiB read takes in all.
constexpr size_t kBesideLight = 32 * 1024;
// A queue of reads that came in three receives (each counts as 4 KiB), or three writes of 4 KiB.
// Half of what a heavy stream reads beside a light one.
constexpr size_t kLightBytes = 16 * 1024;
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
