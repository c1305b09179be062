// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/scsi_task.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "server/iscsi/session.h"

namespace sectormap::iscsi {
namespace {

uint8_t ResidualFlags(const Residual& residual) {
  // The bits are at the same place in Data-In and SCSI Response (RFC 7143 §11.7, §11.4).
  static_assert(DataInHeader::kOverflowBit == ScsiResponseHeader::kOverflowBit &&
                DataInHeader::kUnderflowBit == ScsiResponseHeader::kUnderflowBit);
  switch (residual.kind) {
    case Residual::Kind::kNone:
      return 0;
    case Residual::Kind::kUnderflow:
      return ScsiResponseHeader::kUnderflowBit;
    case Residual::Kind::kOverflow:
      return ScsiResponseHeader::kOverflowBit;
  }
  return 0;
}

}  // namespace

void ReplySource::Prepare(const SessionParameters& parameters) {
  const bool in = task_.plan.direction == scsi::DataDirection::kIn;
  const bool out = task_.plan.direction == scsi::DataDirection::kOut;
  const uint32_t moved = in ? task_.result.data_in_bytes : out ? task_.plan.bytes : 0;
  const uint32_t expected = in && !task_.header.read() ? 0 : task_.expected;
  residual_ = ResidualOf(expected, moved);
  cutter_ = DataInCutter(in ? std::min(moved, expected) : 0, parameters);
}

bool ReplySource::NextPdu(BasicHeader& header, std::span<const std::byte>& data) {
  // Aborted, or the status has been made.
  if (!task_.in_table) return false;
  if (!cutter_.done()) {
    MakeDataIn(header, data);
  } else {
    MakeResponse(header, data);
  }
  return true;
}

void ReplySource::MakeDataIn(BasicHeader& header, std::span<const std::byte>& data) {
  const DataInCutter::Piece piece = cutter_.Next();
  DataInHeader data_in;
  data_in.initiator_task_tag = task_.tag();
  data_in.data_sn = piece.data_sn;
  data_in.buffer_offset = piece.offset;
  if (piece.final) data_in.flags |= kFinalBit;
  if (piece.last && task_.result.status == scsi::ScsiStatus::kGood) {
    data_in.flags |= DataInHeader::kStatusBit | ResidualFlags(residual_);
    data_in.status = task_.result.status;
    data_in.residual_count = residual_.count;
    task_.session.OnStatusMade(task_);
  }
  data = task_.data_in().subspan(piece.offset, piece.bytes);
  header = HeaderAs<BasicHeader>(data_in);
}

void ReplySource::MakeResponse(BasicHeader& header, std::span<const std::byte>& data) {
  ScsiResponseHeader response;
  response.initiator_task_tag = task_.tag();
  response.status = task_.result.status;
  response.flags |= ResidualFlags(residual_);
  response.residual_count = residual_.count;
  response.exp_data_sn = cutter_.pdus();
  const std::span<const uint8_t> sense = task_.result.sense.span();
  if (!sense.empty()) {
    const Big16 length = static_cast<uint16_t>(sense.size());
    std::memcpy(sense_segment_.data(), &length, sizeof length);
    std::memcpy(sense_segment_.data() + sizeof length, sense.data(), sense.size());
    data = std::span(sense_segment_).first(sizeof length + sense.size());
  }
  task_.session.OnStatusMade(task_);
  header = HeaderAs<BasicHeader>(response);
}

void ReplySource::OnSent() { std::exchange(waiting_, nullptr).resume(); }

void RequestSource::Queue() {
  if (queued_) return;
  queued_ = true;
  task_.session.writer().Queue(*this);
}

bool RequestSource::NextPdu(BasicHeader& header, std::span<const std::byte>&) {
  if (task_.aborted || !task_.transfer.MayRequest()) return false;
  const uint32_t tag = task_.session.NextTransferTag();
  const DataOutTransfer::Request request = task_.transfer.NextRequest(tag);
  ReadyToTransferHeader r2t;
  r2t.lun = task_.header.lun;
  r2t.initiator_task_tag = task_.tag();
  r2t.target_transfer_tag = tag;
  r2t.r2t_sn = request.r2t_sn;
  r2t.buffer_offset = request.offset;
  r2t.desired_data_transfer_length = request.bytes;
  header = HeaderAs<BasicHeader>(r2t);
  return true;
}

void RequestSource::OnSent() {
  queued_ = false;
  // The answer to one may have come before we heard that it was sent.
  if (!task_.aborted && task_.transfer.MayRequest() && !task_.session.writer().closed()) {
    Queue();
    return;
  }
  task_.changed.WakeAll();
}

}  // namespace sectormap::iscsi
