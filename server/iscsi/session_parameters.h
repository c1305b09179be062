// SPDX-License-Identifier: Apache-2.0
// What a session agreed on: the outcome of RFC 7143 §13's keys, at ErrorRecoveryLevel 0.
#pragma once

#include <cstdint>

namespace sectormap::iscsi {

// What we declare: the largest data segment of a PDU sent to us. A command's immediate data of this
// size needs no R2T; larger segments save nothing more.
inline constexpr uint32_t kOurMaxRecvDataSegmentBytes = 256 * 1024;

struct SessionParameters {
  uint32_t max_send_segment_bytes = 8192;  // the initiator's MaxRecvDataSegmentLength
  uint32_t max_burst_bytes = 262144;
  uint32_t first_burst_bytes = 65536;
  uint16_t max_outstanding_r2t = 1;
  uint16_t default_time2wait = 2;
  uint16_t default_time2retain = 0;
  bool initial_r2t = true;
  bool immediate_data = true;
  bool header_digest = false;
  bool data_digest = false;
};

}  // namespace sectormap::iscsi
