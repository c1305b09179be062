// SPDX-License-Identifier: Apache-2.0
// zero: reads give zeroes, writes go nowhere (drivers/md/dm-zero.c). No arguments.
#include <cstring>

#include "core/map/target.h"
#include "targets/builtin_targets.h"

namespace sectormap::targets {
namespace {

class ZeroTarget final : public Target {
 public:
  using Target::Target;

  BlockLimits limits() const override {
    BlockLimits limits;
    limits.can_discard = true;
    limits.discard_granularity_bytes = kSectorBytes;
    limits.discard_zeroes = true;
    limits.can_write_zeroes = true;
    return limits;
  }

  Task<IoStatus> Submit(IoRequest request) override {
    if (request.op == IoOp::kRead) std::memset(request.data.data(), 0, request.data.size());
    return IoStatus::kOk;
  }

  Task<Extent> ExtentAt(Sector first) override {
    return Extent{IoStatus::kOk, false, size() - first.offset()};
  }

  std::string TableArgs() const override { return ""; }
};

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  if (args.left() != 0) return absl::InvalidArgumentError("No arguments required");
  return std::make_unique<ZeroTarget>(args.length());
}

}  // namespace

const TargetType kZeroTarget{
    .name = "zero",
    .version = "1.2.0",
    .usage = "",
    .summary = "reads give zeroes, writes are dropped",
    .create = Create,
};

}  // namespace sectormap::targets
