// SPDX-License-Identifier: Apache-2.0
// What a session agreed on: the outcome of RFC 7143 §13's keys, at ErrorRecoveryLevel 0.
#pragma once

#include <cstdint>

namespace sectormap::iscsi {

// RFC 7143 §13.21.
enum class SessionType { kNormal, kDiscovery };

// What we declare: the largest data segment of a PDU sent to us. A command's immediate data of this
// size needs no R2T; larger segments save nothing more.
inline constexpr uint32_t kOurMaxRecvDataSegmentBytes = 256 * 1024;
// What we offer as FirstBurstLength: no more than one PDU of ours, so that unsolicited data is
// immediate data, and what open-iscsi proposes.
inline constexpr uint32_t kOurFirstBurstBytes = 256 * 1024;
// What we offer as MaxBurstLength. Each burst costs one R2T of 48 bytes, and kOurMaxOutstandingR2t
// bursts overlap, so a larger one gains nothing; a smaller one lets other commands in between.
inline constexpr uint32_t kOurMaxBurstBytes = 1024 * 1024;
// What we offer as MaxOutstandingR2T: 16 bursts cover the largest command four times over.
inline constexpr uint16_t kOurMaxOutstandingR2t = 16;

// Each member starts as the key's default, which holds if nobody negotiates it (§13).
struct SessionParameters {
  uint32_t max_send_segment_bytes = 8192;  // the initiator's MaxRecvDataSegmentLength
  uint32_t max_burst_bytes = 262144;
  uint32_t first_burst_bytes = 65536;  // never more than max_burst_bytes
  uint16_t max_outstanding_r2t = 1;
  uint16_t default_time2wait = 2;     // seconds
  uint16_t default_time2retain = 20;  // seconds; at ErrorRecoveryLevel 0 there is nothing to retain
  bool initial_r2t = true;
  bool immediate_data = true;
  bool header_digest = false;
  bool data_digest = false;
};

}  // namespace sectormap::iscsi
