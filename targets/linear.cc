// SPDX-License-Identifier: Apache-2.0
// linear: one contiguous range of one device (drivers/md/dm-linear.c).
//   <device> <first sector>
#include "core/base/status_macros.h"
#include "core/map/table_spec.h"
#include "core/map/target.h"
#include "targets/builtin_targets.h"

namespace sectormap::targets {
namespace {

class LinearTarget final : public Target {
 public:
  LinearTarget(SectorCount length, DeviceRef device, Sector start)
      : Target(length), start_(start), device_(std::move(device)) {}

  BlockLimits limits() const override { return MovedLimits(device_.device->limits(), start_); }

  // It does nothing else, so I/O goes this way and never meets Submit in a table.
  Way way() override { return {device_.device.get(), start_}; }

  Task<IoStatus> Submit(IoRequest request) override {
    request.first += start_.offset();
    return device_.device->Submit(request);
  }

  std::string TableArgs() const override {
    std::string text;
    AppendTableArgs(text);
    return text;
  }
  void AppendTableArgs(std::string& text) const override {
    AppendQuoted(device_.name(), text);
    text += ' ';
    AppendNumber(start_.value(), text);
  }

  std::span<const DeviceRef> backings() const override { return {&device_, 1}; }

 private:
  const Sector start_;
  const DeviceRef device_;
};

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  if (args.left() != 2) return absl::InvalidArgumentError("Invalid argument count");
  ASSIGN_OR_RETURN(DeviceRef device, args.Device("Device lookup failed"));
  ASSIGN_OR_RETURN(const Sector start, args.Place("Invalid device sector"));
  RETURN_IF_ERROR(CheckFits(device, start, args.length()));
  return std::make_unique<LinearTarget>(args.length(), std::move(device), start);
}

}  // namespace

const TargetType kLinearTarget{
    .name = "linear",
    .version = "1.4.0",
    .usage = "<device> <first sector>",
    .summary = "maps the row onto one contiguous range of one device",
    .create = Create,
};

}  // namespace sectormap::targets
