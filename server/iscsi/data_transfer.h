// SPDX-License-Identifier: Apache-2.0
// How a command's data is cut into PDUs (RFC 7143 §4.2.5, §11.7, §11.8), as pure arithmetic:
// Data-In pieces, the bursts of Data-Out that R2Ts ask for, what came and what is missing,
// residuals. It touches no memory: session.cc moves the bytes.
#pragma once

#include <array>
#include <cstdint>

#include "server/iscsi/pdu.h"
#include "server/iscsi/session_parameters.h"
#include "server/scsi/scsi_command.h"
#include "server/scsi/sense.h"

namespace sectormap::iscsi {

// The difference between what the initiator expected and what the command moves (RFC 7143 §11.4.5).
struct Residual {
  enum class Kind : uint8_t { kNone, kUnderflow, kOverflow };
  Kind kind = Kind::kNone;
  uint32_t count = 0;  // bytes
};
Residual ResidualOf(uint32_t expected_bytes, uint32_t command_bytes);

// Cuts `total` bytes into Data-In PDUs: at the initiator's MaxRecvDataSegmentLength and at
// MaxBurstLength, where the F bit ends a burst.
class DataInCutter {
 public:
  DataInCutter() = default;
  DataInCutter(uint32_t total_bytes, const SessionParameters& parameters)
      : total_(total_bytes),
        segment_(parameters.max_send_segment_bytes),
        burst_(parameters.max_burst_bytes) {}

  struct Piece {
    uint32_t offset = 0;
    uint32_t bytes = 0;
    uint32_t data_sn = 0;
    bool final = false;  // ends a burst
    bool last = false;   // ends the command's data
  };
  // REQUIRES: !done().
  Piece Next();
  bool done() const { return offset_ == total_; }
  uint32_t pdus() const { return data_sn_; }

 private:
  uint32_t total_ = 0;
  uint32_t segment_ = 0;
  uint32_t burst_ = 0;
  uint32_t offset_ = 0;
  uint32_t in_burst_ = 0;
  uint32_t data_sn_ = 0;
};

// What is wrong with a command's data: the iSCSI conditions of RFC 7143 §11.4.7.2.
enum class DataFault : uint8_t {
  kNone,
  kUnexpectedUnsolicited,  // data that nobody asked for
  kIncorrectAmount,        // more or less than was agreed, or at another place
  kServiceCrc,             // a digest error, or a DataSN that shows that a PDU is missing
};

// ABORTED COMMAND, and the additional code that RFC 7143 §11.4.7.2 gives it.
// REQUIRES: fault != kNone.
scsi::SenseCode SenseFor(DataFault fault);

// One write's data on its way in.
class DataOutTransfer {
 public:
  DataOutTransfer() = default;

  // `expected` is what the initiator means to send, `wanted` (<= expected) what the command takes:
  // no more than that is asked for, and what comes beyond it is accepted and given up. `final` is
  // the command's F bit: no unsolicited Data-Out follows.
  DataOutTransfer(uint32_t expected, uint32_t wanted, uint32_t immediate_bytes, bool final,
                  const SessionParameters& parameters);

  struct Place {
    uint32_t offset = 0;
    uint32_t bytes = 0;  // of the segment, from its start, that belong into the buffer at `offset`
  };
  // The immediate data's.
  Place immediate_place() const { return Clip(0, immediate_bytes_); }

  // A Data-Out of `bytes` for this command. What is wrong with it is remembered in fault().
  Place Accept(const DataOutHeader& header, uint32_t bytes);

  // Names the transfer's first fault; later ones change nothing.
  void Fail(DataFault fault) {
    if (fault_ == DataFault::kNone) fault_ = fault;
  }
  DataFault fault() const { return fault_; }

  // The next R2T that may be sent now, if any. `target_transfer_tag` becomes its tag.
  struct Request {
    uint32_t r2t_sn = 0;
    uint32_t offset = 0;
    uint32_t bytes = 0;
  };
  bool MayRequest() const;
  // REQUIRES: MayRequest().
  Request NextRequest(uint32_t target_transfer_tag);

  // Data was asked for, or announced, that has not come.
  bool awaits_data() const { return open_ != 0; }

  // Nothing more will come, or nothing more needs to: all that is wanted is there, or there is a
  // fault and every burst that is under way has ended (RFC 7143 §7.8 makes us wait for that), or
  // one that cannot be told apart any more.
  bool done() const;

 private:
  struct Burst {
    uint32_t tag = kReservedTag;  // kReservedTag: the unsolicited one
    uint32_t position = 0;
    uint32_t end = 0;
    uint32_t next_data_sn = 0;
    bool open = false;
  };

  Place Clip(uint32_t offset, uint32_t bytes) const;
  Burst* FindBurst(uint32_t tag);
  static DataFault Check(const Burst& burst, const DataOutHeader& header, uint32_t bytes);

  uint32_t wanted_ = 0;
  uint32_t immediate_bytes_ = 0;
  uint32_t requested_ = 0;  // up to here data has come unsolicited or was asked for
  uint32_t max_burst_ = 0;
  uint32_t r2t_sn_ = 0;
  uint16_t max_open_ = 1;
  uint16_t open_ = 0;  // bursts under way, the unsolicited one too
  bool lost_ = false;  // data came that belongs to no burst: there is no telling what is to come
  DataFault fault_ = DataFault::kNone;
  std::array<Burst, kOurMaxOutstandingR2t> bursts_;
};

}  // namespace sectormap::iscsi
