// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/unit_identity.h"

#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"

namespace sectormap::scsi {
namespace {

// An identifier of the locally administered quadrant "AAI" of IEEE Std 802c (second digit 2): no
// vendor's registered identifier can be the same.
constexpr uint32_t kCompanyId = 0x525350;
constexpr uint8_t kNaaRegisteredExtended = 0x6;

}  // namespace

UnitIdentity MakeUnitIdentity(std::string_view device_identity) {
  std::array<uint8_t, EVP_MAX_MD_SIZE> digest{};
  CHECK(EVP_Digest(device_identity.data(), device_identity.size(), digest.data(), nullptr,
                   EVP_sha256(), nullptr) == 1);
  UnitIdentity identity{};
  identity.naa[0] = kNaaRegisteredExtended << 4 | kCompanyId >> 20;
  identity.naa[1] = kCompanyId >> 12 & 0xff;
  identity.naa[2] = kCompanyId >> 4 & 0xff;
  identity.naa[3] = static_cast<uint8_t>((kCompanyId & 0xf) << 4 | (digest[0] & 0xf));
  for (size_t i = 4; i < identity.naa.size(); ++i) identity.naa[i] = digest[i];
  identity.serial =
      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), 16));
  return identity;
}

}  // namespace sectormap::scsi
