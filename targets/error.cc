// SPDX-License-Identifier: Apache-2.0
// error: every I/O fails (drivers/md/dm-target.c, io_err_*). Any arguments are accepted and
// forgotten, so that a row can be turned to `error` by changing one word.
#include "core/map/target.h"
#include "targets/builtin_targets.h"

namespace sectormap::targets {
namespace {

class ErrorTarget final : public Target {
 public:
  using Target::Target;

  // Says that it can discard and zero, so that these fail as an error and do not look unsupported,
  // and so that a gap in a table does not take the ability from its other rows.
  BlockLimits limits() const override {
    BlockLimits limits;
    limits.can_discard = true;
    limits.discard_granularity_bytes = kSectorBytes;
    limits.discard_zeroes = true;
    limits.can_write_zeroes = true;
    return limits;
  }

  Task<IoStatus> Submit(IoRequest request) override {
    return request.op == IoOp::kFlush ? IoStatus::kOk : IoStatus::kIoError;
  }

  std::string TableArgs() const override { return ""; }
};

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  return std::make_unique<ErrorTarget>(args.length());
}

}  // namespace

const TargetType kErrorTarget{
    .name = "error",
    .version = "1.5.0",
    .usage = "[<anything>...]",
    .summary = "fails every I/O; for gaps, and for taking a device out of use",
    .create = Create,
};

}  // namespace sectormap::targets
