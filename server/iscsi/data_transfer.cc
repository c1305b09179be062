// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/data_transfer.h"

#include <algorithm>

#include "core/base/check.h"

namespace sectormap::iscsi {

Residual ResidualOf(uint32_t expected_bytes, uint32_t command_bytes) {
  if (command_bytes < expected_bytes) {
    return {Residual::Kind::kUnderflow, expected_bytes - command_bytes};
  }
  if (command_bytes > expected_bytes) {
    return {Residual::Kind::kOverflow, command_bytes - expected_bytes};
  }
  return {};
}

DataInCutter::Piece DataInCutter::Next() {
  CHECK(!done());
  Piece piece;
  piece.offset = offset_;
  piece.bytes = std::min({segment_, burst_ - in_burst_, total_ - offset_});
  piece.data_sn = data_sn_++;
  offset_ += piece.bytes;
  in_burst_ += piece.bytes;
  piece.last = offset_ == total_;
  piece.final = piece.last || in_burst_ == burst_;
  if (piece.final) in_burst_ = 0;
  return piece;
}

scsi::SenseCode SenseFor(DataFault fault) {
  switch (fault) {
    case DataFault::kNone:
      break;
    case DataFault::kUnexpectedUnsolicited:
      return scsi::kUnexpectedUnsolicitedData;
    case DataFault::kIncorrectAmount:
      return scsi::kNotEnoughUnsolicitedData;
    case DataFault::kServiceCrc:
      return scsi::kProtocolServiceCrcError;
  }
  CHECK(fault != DataFault::kNone);
  return scsi::kCommandAborted;
}

DataOutTransfer::DataOutTransfer(uint32_t expected, uint32_t wanted, uint32_t immediate_bytes,
                                 bool final, const SessionParameters& parameters)
    : wanted_(wanted),
      immediate_bytes_(immediate_bytes),
      requested_(immediate_bytes),
      max_burst_(parameters.max_burst_bytes),
      max_open_(std::min(parameters.max_outstanding_r2t, kOurMaxOutstandingR2t)) {
  const uint32_t unsolicited_max = std::min(parameters.first_burst_bytes, expected);
  if (immediate_bytes != 0 && !parameters.immediate_data) Fail(DataFault::kUnexpectedUnsolicited);
  if (immediate_bytes > unsolicited_max) Fail(DataFault::kIncorrectAmount);
  if (final) return;
  if (parameters.initial_r2t) {
    // RFC 7143 §11.3.1: F may be 0 only where unsolicited Data-Out is allowed. How much comes now
    // is anybody's guess.
    Fail(DataFault::kUnexpectedUnsolicited);
    lost_ = true;
    return;
  }
  bursts_[0] = {kReservedTag, immediate_bytes, std::max(unsolicited_max, immediate_bytes), 0, true};
  open_ = 1;
}

DataOutTransfer::Place DataOutTransfer::Clip(uint32_t offset, uint32_t bytes) const {
  if (offset >= wanted_) return {};
  return {offset, std::min(bytes, wanted_ - offset)};
}

DataOutTransfer::Burst* DataOutTransfer::FindBurst(uint32_t tag) {
  for (Burst& burst : bursts_) {
    if (burst.open && burst.tag == tag) return &burst;
  }
  return nullptr;
}

DataFault DataOutTransfer::Check(const Burst& burst, const DataOutHeader& header, uint32_t bytes) {
  if (header.data_sn != burst.next_data_sn) return DataFault::kServiceCrc;
  // DataPDUInOrder=Yes: each PDU begins where the last one ended.
  if (header.buffer_offset != burst.position) return DataFault::kIncorrectAmount;
  if (bytes > burst.end - burst.position) return DataFault::kIncorrectAmount;
  const bool complete = burst.position + bytes == burst.end;
  const bool unsolicited = burst.tag == kReservedTag;
  // An R2T is answered in full, and F marks its end (RFC 7143 §11.7.1); unsolicited data may end
  // earlier.
  if (complete != header.final() && !(unsolicited && header.final())) {
    return DataFault::kIncorrectAmount;
  }
  return DataFault::kNone;
}

DataOutTransfer::Place DataOutTransfer::Accept(const DataOutHeader& header, uint32_t bytes) {
  Burst* burst = FindBurst(header.target_transfer_tag);
  if (burst == nullptr) {
    const bool unsolicited = header.target_transfer_tag == kReservedTag;
    Fail(unsolicited ? DataFault::kUnexpectedUnsolicited : DataFault::kIncorrectAmount);
    lost_ = true;
    return {};
  }
  Fail(Check(*burst, header, bytes));
  Place place;
  if (fault_ == DataFault::kNone) {
    place = Clip(burst->position, bytes);
    burst->position += bytes;
    ++burst->next_data_sn;
  }
  if (header.final()) {
    burst->open = false;
    --open_;
    if (burst->tag == kReservedTag) requested_ = burst->position;
  }
  return place;
}

bool DataOutTransfer::MayRequest() const {
  if (fault_ != DataFault::kNone || requested_ >= wanted_ || open_ >= max_open_) return false;
  // The unsolicited burst says only at its end how far it goes.
  return !(bursts_[0].open && bursts_[0].tag == kReservedTag);
}

DataOutTransfer::Request DataOutTransfer::NextRequest(uint32_t target_transfer_tag) {
  CHECK(MayRequest());
  Burst* free = nullptr;
  for (Burst& burst : bursts_) {
    if (!burst.open) free = &burst;
  }
  CHECK(free != nullptr);
  const Request request{r2t_sn_++, requested_, std::min(max_burst_, wanted_ - requested_)};
  *free = {target_transfer_tag, request.offset, request.offset + request.bytes, 0, true};
  requested_ += request.bytes;
  ++open_;
  return request;
}

bool DataOutTransfer::done() const {
  if (lost_) return true;
  return open_ == 0 && (fault_ != DataFault::kNone || requested_ >= wanted_);
}

}  // namespace sectormap::iscsi
