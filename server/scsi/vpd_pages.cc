// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/vpd_pages.h"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <string_view>

#include "server/scsi/parameter_limits.h"

namespace sectormap::scsi {
namespace {

constexpr uint8_t kVersionSpc4 = 0x06;
constexpr size_t kStandardInquiryBytes = 96;
// SPC-4 §6.6.2 version descriptors: SAM-5, iSCSI, SPC-4, SBC-3; none says a revision.
constexpr std::array<uint16_t, 4> kVersionDescriptors = {0x00a0, 0x0960, 0x0460, 0x04c0};
constexpr size_t kVersionDescriptorsAt = 58;

constexpr size_t kLongPageBytes = 64;  // B0h and B1h of SBC-3, header included
constexpr uint16_t kNonRotating = 0x0001;

// SPC-4 §7.8.6.2: designator header fields.
constexpr uint8_t kProtocolIscsi = 0x50;
constexpr uint8_t kBinary = 1, kAscii = 2, kUtf8 = 3;
constexpr uint8_t kOfUnit = 0x00, kOfPort = 0x90;  // PIV and association
constexpr uint8_t kVendorType = 1, kNaaType = 3, kRelativePortType = 4, kPortGroupType = 5,
                  kScsiNameType = 8;

void PutSupportedPages(ParameterWriter& out);

void PutSerialNumber(const LogicalUnit& unit, ParameterWriter& out) {
  out.PutText(unit.identity().serial, unit.identity().serial.size());
}

void PutDesignatorHead(ParameterWriter& out, uint8_t code_set, uint8_t association, uint8_t type,
                       size_t length) {
  out.Put8((association == kOfPort ? kProtocolIscsi : 0) | code_set);
  out.Put8(association | type);
  out.Put8(0);
  out.Put8(length);
}

void PutDeviceIdentification(const LogicalUnit& unit, const LunNexus& nexus, ParameterWriter& out) {
  const UnitIdentity& identity = unit.identity();
  PutDesignatorHead(out, kBinary, kOfUnit, kNaaType, identity.naa.size());
  out.PutBytes(identity.naa);

  PutDesignatorHead(out, kAscii, kOfUnit, kVendorType, 8 + identity.serial.size());
  out.PutText(unit.options().vendor, 8);
  out.PutText(identity.serial, identity.serial.size());

  PutDesignatorHead(out, kBinary, kOfPort, kRelativePortType, 4);
  out.Put16(0);
  out.Put16(nexus.identity.relative_target_port);

  PutDesignatorHead(out, kBinary, kOfPort, kPortGroupType, 4);
  out.Put16(0);
  out.Put16(kTargetPortGroup);

  // SPC-4 §7.8.6.11: ends with a NUL, padded to four bytes; an iSCSI name has at most 223, so the
  // length fits its byte.
  const std::string_view port = std::string_view(nexus.identity.target_port).substr(0, 247);
  const size_t padded = (port.size() / 4 + 1) * 4;
  PutDesignatorHead(out, kUtf8, kOfPort, kScsiNameType, padded);
  out.PutText(port, padded, '\0');
}

// 0, "not said", as long as there was no medium.
uint32_t InBlocks(uint64_t bytes, const LogicalUnit& unit) {
  const uint32_t block = unit.block_bytes();
  return block == 0 ? 0 : static_cast<uint32_t>(bytes / block);
}

// None: what is aligned begins inside logical blocks, or at no regular places.
std::optional<uint32_t> FirstAlignedLba(uint32_t alignment_bytes, const LogicalUnit& unit) {
  const uint32_t block = unit.block_bytes();
  if (alignment_bytes == kNotAligned || block == 0 || alignment_bytes % block != 0) return {};
  return alignment_bytes / block;
}

// UGAVALID and UNMAP GRANULARITY ALIGNMENT.
uint32_t UnmapAlignment(const LogicalUnit& unit, const Characteristics& about) {
  constexpr uint32_t kValid = 0x80000000;
  const std::optional<uint32_t> lba = FirstAlignedLba(about.unmap_alignment_bytes, unit);
  return lba ? kValid | *lba : 0;
}

void PutBlockLimits(const LogicalUnit& unit, ParameterWriter& out) {
  const Characteristics about = unit.characteristics();
  const size_t head = out.size() - 4;
  const uint32_t granularity = InBlocks(about.io_min_bytes, unit);
  out.Put8(0x01);  // WSNZ: WRITE SAME of zero blocks is refused
  out.Put8(kMaxCompareAndWriteBlocks);
  out.Put16(std::min<uint32_t>(granularity, UINT16_MAX));
  out.Put32(InBlocks(kMaxTransferBytes, unit));
  out.Put32(std::min(InBlocks(about.io_opt_bytes, unit), InBlocks(kMaxTransferBytes, unit)));
  out.Put32(0);  // MAXIMUM PREFETCH LENGTH: none
  out.Put32(about.unmaps ? kMaxUnmapBlocks : 0);
  out.Put32(about.unmaps ? kMaxUnmapDescriptors : 0);
  const uint32_t unmap = InBlocks(about.unmap_granularity_bytes, unit);
  out.Put32(about.unmaps ? std::max<uint32_t>(unmap, 1) : 0);
  out.Put32(about.unmaps ? UnmapAlignment(unit, about) : 0);
  out.Put64(kMaxWriteSameBlocks);
  out.PadTo(head + kLongPageBytes);
}

void PutBlockDeviceCharacteristics(ParameterWriter& out) {
  const size_t head = out.size() - 4;
  out.Put16(kNonRotating);
  out.PadTo(head + kLongPageBytes);
}

// SBC-3 §6.6.4.
void PutLogicalBlockProvisioning(const LogicalUnit& unit, ParameterWriter& out) {
  const Characteristics about = unit.characteristics();
  constexpr uint8_t kUnmap = 0x80, kWriteSame16 = 0x40, kWriteSame10 = 0x20, kReadsZeros = 0x04;
  constexpr uint8_t kThin = 2;
  uint8_t abilities = 0;
  if (about.unmaps) abilities |= kUnmap;
  if (about.write_same_unmaps) abilities |= kWriteSame16 | kWriteSame10;
  if (about.reads_zeros) abilities |= kReadsZeros;
  out.Put8(0);  // THRESHOLD EXPONENT: none
  out.Put8(abilities);
  out.Put8(about.unmaps ? kThin : 0);
  out.Put8(0);
}

constexpr std::array<uint8_t, 6> kPages = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};

void PutSupportedPages(ParameterWriter& out) { out.PutBytes(kPages); }

}  // namespace

uint8_t PhysicalBlockExponent(const LogicalUnit& unit) {
  const uint32_t ratio = InBlocks(unit.characteristics().physical_block_bytes, unit);
  return ratio < 2 ? 0 : static_cast<uint8_t>(std::bit_width(ratio) - 1);
}

uint16_t LowestAlignedLba(const LogicalUnit& unit) {
  constexpr uint32_t kMax = 0x3fff;
  const uint32_t alignment = unit.characteristics().physical_alignment_bytes;
  const uint32_t lba = FirstAlignedLba(alignment, unit).value_or(0);
  return lba <= kMax ? static_cast<uint16_t>(lba) : 0;
}

void PutStandardInquiry(const LogicalUnit& unit, ParameterWriter& out) {
  constexpr uint8_t kHierarchicalLuns = 0x10, kResponseFormat = 0x02;
  constexpr uint8_t kImplicitAlua = 0x10;
  constexpr uint8_t kMultiPort = 0x10;
  constexpr uint8_t kCommandQueuing = 0x02;
  out.Put8(0);  // connected, direct access block device
  out.Put8(0);  // not removable
  out.Put8(kVersionSpc4);
  out.Put8(kHierarchicalLuns | kResponseFormat);
  out.Put8(kStandardInquiryBytes - 5);
  out.Put8(kImplicitAlua);
  out.Put8(kMultiPort);
  out.Put8(kCommandQueuing);
  out.PutText(unit.options().vendor, 8);
  out.PutText(unit.options().product, 16);
  out.PutText(unit.options().revision, 4);
  out.PadTo(kVersionDescriptorsAt);
  for (uint16_t descriptor : kVersionDescriptors) out.Put16(descriptor);
  out.PadTo(kStandardInquiryBytes);
}

bool PutVpdPage(uint8_t page, const LogicalUnit& unit, const LunNexus& nexus,
                ParameterWriter& out) {
  if (std::find(kPages.begin(), kPages.end(), page) == kPages.end()) return false;
  out.Put8(0);
  out.Put8(page);
  out.Put16(0);  // PAGE LENGTH, known at the end
  switch (page) {
    case 0x00:
      PutSupportedPages(out);
      break;
    case 0x80:
      PutSerialNumber(unit, out);
      break;
    case 0x83:
      PutDeviceIdentification(unit, nexus, out);
      break;
    case 0xb0:
      PutBlockLimits(unit, out);
      break;
    case 0xb1:
      PutBlockDeviceCharacteristics(out);
      break;
    case 0xb2:
      PutLogicalBlockProvisioning(unit, out);
      break;
    default:
      break;
  }
  out.Patch16(2, out.size() - 4);
  return true;
}

}  // namespace sectormap::scsi
