// SPDX-License-Identifier: Apache-2.0
// MODE SENSE and MODE SELECT (SPC-4 §6.11-§6.14, §7.5; SBC-3 §6.5).
#include <algorithm>
#include <array>
#include <span>

#include "server/scsi/cdb.h"
#include "server/scsi/handlers.h"
#include "server/scsi/logical_unit.h"

namespace sectormap::scsi {
namespace {

constexpr uint8_t kModeSense6 = 0x1a, kModeSelect6 = 0x15;
constexpr uint8_t kErrorRecoveryPage = 0x01, kCachingPage = 0x08, kControlPage = 0x0a,
                  kExceptionsPage = 0x1c, kAllPages = 0x3f;
constexpr uint8_t kNoSubpage = 0x00, kAllSubpages = 0xff;
constexpr std::array<uint8_t, 4> kPages = {kErrorRecoveryPage, kCachingPage, kControlPage,
                                           kExceptionsPage};

enum class PageControl : uint8_t { kCurrent = 0, kChangeable = 1, kDefault = 2, kSaved = 3 };

constexpr uint8_t kWriteCacheBit = 0x04;  // WCE of the Caching page (SBC-3 §6.5.5)

// Of the Control page (SPC-4 §7.5.8).
constexpr uint8_t kDescriptorSenseBit = 0x04;       // byte 2
constexpr uint8_t kUnrestrictedReordering = 0x10;   // byte 3, QUEUE ALGORITHM MODIFIER 1
constexpr uint8_t kSoftwareWriteProtectBit = 0x08;  // byte 4
constexpr size_t kControlPageBytes = 12;

constexpr uint8_t kWriteProtectBit = 0x80, kDpoFuaBit = 0x10;  // DEVICE-SPECIFIC PARAMETER

// The bytes of one page. Nothing but D_SENSE and SWP can be changed.
void PutPage(uint8_t page, PageControl control, const ModeParameters& parameters,
             ParameterWriter& out) {
  const size_t start = out.size();
  const bool changeable = control == PageControl::kChangeable;
  out.Put8(page);
  out.Put8(0);
  switch (page) {
    case kErrorRecoveryPage:
      out.PadTo(start + 12);
      break;
    case kCachingPage:
      // WCE: a write that has ended may still be in a cache; SYNCHRONIZE CACHE and FUA reach
      // through. Always, as an initiator asks once and sends no SYNCHRONIZE CACHE without it, while
      // any new table may bring a cache.
      out.Put8(changeable ? 0 : kWriteCacheBit);
      out.PadTo(start + 20);
      break;
    case kControlPage: {
      const bool current = control == PageControl::kCurrent;
      out.Put8(changeable || (current && parameters.descriptor_sense) ? kDescriptorSenseBit : 0);
      out.Put8(changeable ? 0 : kUnrestrictedReordering);
      out.Put8(changeable || (current && parameters.software_write_protect)
                   ? kSoftwareWriteProtectBit
                   : 0);
      out.PutZeros(3);
      out.Put16(changeable ? 0 : 0xffff);  // BUSY TIMEOUT PERIOD: unlimited
      out.PadTo(start + kControlPageBytes);
      break;
    }
    case kExceptionsPage:
      out.PadTo(start + 12);
      break;
    default:
      break;
  }
  out.Patch8(start + 1, out.size() - start - 2);
}

void PutBlockDescriptor(const LogicalUnit& unit, bool long_form, ParameterWriter& out) {
  const uint64_t blocks = unit.capacity_blocks();
  if (long_form) {
    out.Put64(blocks);
    out.Put32(0);
    out.Put32(unit.block_bytes());
    return;
  }
  out.Put32(std::min<uint64_t>(blocks, UINT32_MAX));
  out.Put8(0);
  out.Put24(unit.block_bytes());
}

}  // namespace

Task<ScsiResult> ModeSense(Command command) {
  const bool is_6 = command.cdb[0] == kModeSense6;
  const bool no_descriptor = command.Bits(1, 0x08) != 0;
  const bool long_descriptor = command.Bits(1, 0x10) != 0;
  const auto control = static_cast<PageControl>(command.cdb[2] >> 6);
  const uint8_t page = command.Bits(2, 0x3f);
  const uint8_t subpage = command.cdb[3];
  if (control == PageControl::kSaved) return command.Fail(kSavingNotSupported);
  const bool known =
      page == kAllPages || std::find(kPages.begin(), kPages.end(), page) != kPages.end();
  if (!known) return command.RefuseField(2);
  if (subpage != kNoSubpage && subpage != kAllSubpages) return command.RefuseField(3);

  const LogicalUnit& unit = *command.unit;
  const ModeParameters parameters = unit.mode_parameters();
  ParameterWriter out(command.buffer);
  const uint8_t specific =
      kDpoFuaBit | (unit.IsWriteProtected(*command.nexus) ? kWriteProtectBit : 0);
  const uint8_t descriptor_bytes = no_descriptor ? 0 : long_descriptor ? 16 : 8;
  if (is_6) {
    out.Put8(0);
    out.Put8(0);
    out.Put8(specific);
    out.Put8(descriptor_bytes);
  } else {
    out.Put16(0);
    out.Put8(0);
    out.Put8(specific);
    out.Put8(long_descriptor && !no_descriptor ? 0x01 : 0);
    out.Put8(0);
    out.Put16(descriptor_bytes);
  }
  if (!no_descriptor) PutBlockDescriptor(unit, long_descriptor, out);
  for (uint8_t each : kPages) {
    if (page == kAllPages || page == each) PutPage(each, control, parameters, out);
  }
  // MODE DATA LENGTH counts all there is, also what the allocation length cuts off.
  if (is_6) {
    out.Patch8(0, out.size() - 1);
  } else {
    out.Patch16(0, out.size() - 2);
  }
  return DataIn(out);
}

namespace {

// Changes `parameters` as the page says. False, with the offending byte, if it asks for something
// that cannot be changed.
bool TakePage(std::span<const std::byte> page, ModeParameters& parameters, size_t& bad_byte) {
  std::array<std::byte, 32> current{};
  std::array<std::byte, 32> changeable{};
  const auto code = static_cast<uint8_t>(page[0]);
  ParameterWriter current_out(current);
  ParameterWriter changeable_out(changeable);
  PutPage(code, PageControl::kCurrent, parameters, current_out);
  PutPage(code, PageControl::kChangeable, parameters, changeable_out);
  if (current_out.size() != page.size()) {
    bad_byte = 1;
    return false;
  }
  for (size_t i = 2; i < page.size(); ++i) {
    if (((page[i] ^ current[i]) & ~changeable[i]) != std::byte{0}) {
      bad_byte = i;
      return false;
    }
  }
  if (code == kControlPage) {
    parameters.descriptor_sense = (static_cast<uint8_t>(page[2]) & kDescriptorSenseBit) != 0;
    parameters.software_write_protect =
        (static_cast<uint8_t>(page[4]) & kSoftwareWriteProtectBit) != 0;
  }
  return true;
}

// A block descriptor may only say what is so already.
bool DescriptorFits(std::span<const std::byte> descriptor, const LogicalUnit& unit) {
  const uint64_t capacity = unit.capacity_blocks();
  const bool is_long = descriptor.size() == 16;
  const uint64_t blocks = is_long ? Be64(descriptor, 0) : Be32(descriptor, 0);
  const uint64_t length = is_long ? Be32(descriptor, 12) : BigEndian(descriptor, 5, 3);
  const uint64_t told = is_long ? capacity : std::min<uint64_t>(capacity, UINT32_MAX);
  return (blocks == 0 || blocks == told) && length == unit.block_bytes();
}

}  // namespace

Task<ScsiResult> ModeSelect(Command command) {
  const bool is_6 = command.cdb[0] == kModeSelect6;
  constexpr uint8_t kPageFormat = 0x10, kSavePages = 0x01;
  if (command.Bits(1, kSavePages) != 0) return command.RefuseField(1);
  const size_t length = is_6 ? command.cdb[4] : command.Field16(7);
  if (length == 0) return ScsiResult{};
  if (command.Bits(1, kPageFormat) == 0) return command.RefuseField(1);
  const size_t header = is_6 ? 4 : 8;
  if (length < header || command.buffer.size() < length) {
    return command.Fail(kParameterListLengthError);
  }
  const std::span<const std::byte> list = command.buffer.first(length);
  // MODE DATA LENGTH is reserved, the device-specific parameter is not looked at (SBC-3 §6.5.1).
  const size_t descriptor = is_6 ? static_cast<uint8_t>(list[3]) : Be16(list, 6);
  const bool long_form = !is_6 && (list[4] & std::byte{1}) != std::byte{0};
  if (descriptor != 0 && descriptor != (long_form ? 16u : 8u)) {
    return command.RefuseParameter(is_6 ? 3 : 6);
  }
  if (length < header + descriptor) return command.Fail(kParameterListLengthError);
  if (descriptor != 0 && !DescriptorFits(list.subspan(header, descriptor), *command.unit)) {
    return command.RefuseParameter(header);
  }
  ModeParameters parameters = command.unit->mode_parameters();
  size_t at = header + descriptor;
  while (at < length) {
    if (length - at < 2) return command.Fail(kParameterListLengthError);
    // PS is reserved here, SPF is not set: there are no subpages.
    const auto code = static_cast<uint8_t>(list[at]);
    if (std::find(kPages.begin(), kPages.end(), code) == kPages.end()) {
      return command.RefuseParameter(at);
    }
    const size_t page_bytes = 2 + static_cast<uint8_t>(list[at + 1]);
    if (length - at < page_bytes) return command.Fail(kParameterListLengthError);
    size_t bad_byte = 0;
    if (!TakePage(list.subspan(at, page_bytes), parameters, bad_byte)) {
      return command.RefuseParameter(at + bad_byte);
    }
    at += page_bytes;
  }
  command.unit->SetModeParameters(*command.nexus, parameters);
  return ScsiResult{};
}

}  // namespace sectormap::scsi
