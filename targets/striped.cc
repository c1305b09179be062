// SPDX-License-Identifier: Apache-2.0
// striped: chunks laid round robin over several devices (drivers/md/dm-stripe.c).
//   <#stripes> <chunk sectors> [<device> <first sector>]...
//
// Sector s of the row is in chunk c = s / chunk; it lies on stripe c % n, at that stripe's
// (c / n) * chunk + s % chunk.
#include <atomic>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/async/when_all.h"
#include "core/base/status_macros.h"
#include "core/map/table_spec.h"
#include "core/map/target.h"
#include "targets/builtin_targets.h"

namespace sectormap::targets {
namespace {

class StripedTarget final : public Target {
 public:
  StripedTarget(TargetHost& host, SectorCount length, uint64_t chunk,
                std::vector<DeviceRef> devices, std::vector<Sector> starts)
      : Target(length),
        host_(host),
        chunk_(chunk),
        devices_(std::move(devices)),
        starts_(std::move(starts)),
        failed_(devices_.size()) {}

  BlockLimits limits() const override {
    BlockLimits limits = LimitsOf(0);
    for (size_t i = 1; i < devices_.size(); ++i) limits = StackedLimits(limits, LimitsOf(i));
    // Where the next chunk begins in the midst of one, a block is not found again.
    const uint64_t chunk = Bytes(SectorCount(chunk_)).value();
    if (chunk % limits.physical_block_bytes != 0) limits.physical_alignment_bytes = kNotAligned;
    const uint32_t granule = limits.discard_granularity_bytes;
    if (granule != 0 && chunk % granule != 0) limits.discard_alignment_bytes = kNotAligned;
    limits.io_min_bytes = ClampedBytes(chunk_);
    limits.io_opt_bytes = ClampedBytes(chunk_ * devices_.size());
    return limits;
  }

  // MappedDevice cuts reads and writes at chunks, so each lies on one stripe.
  SectorCount io_boundary() const override { return SectorCount(chunk_); }

  Task<IoStatus> Submit(IoRequest request) override {
    if (!request.has_data()) return SubmitRange(request);
    const size_t stripe = StripeOf(request.first);
    request.first = PlaceOn(stripe, request.first);
    Task<IoStatus> below = devices_[stripe].device->Submit(request);
    if (!below.immediate()) return Watch(std::move(below), stripe);
    const IoStatus status = below.await_resume();
    NoteFailure(status, stripe);
    return status;
  }

  Loan Lend(Sector first, SectorCount count) override {
    const size_t stripe = StripeOf(first);
    return devices_[stripe].device->Lend(PlaceOn(stripe, first), count);
  }

  bool WriteAtOnce(Sector first, std::span<const std::byte> bytes) override {
    const size_t stripe = StripeOf(first);
    return devices_[stripe].device->WriteAtOnce(PlaceOn(stripe, first), bytes);
  }

  Task<Extent> ExtentAt(Sector first) override {
    const size_t stripe = StripeOf(first);
    Extent extent = co_await devices_[stripe].device->ExtentAt(PlaceOn(stripe, first));
    // What the stripe knows beyond this chunk belongs to other sectors of the row.
    extent.count = std::min(extent.count, SectorCount(chunk_ - first.value() % chunk_));
    co_return extent;
  }

  std::string TableArgs() const override {
    std::string text = absl::StrCat(devices_.size(), " ", chunk_);
    for (size_t i = 0; i < devices_.size(); ++i) {
      absl::StrAppend(&text, " ", QuoteWord(devices_[i].name()), " ", starts_[i].value());
    }
    return text;
  }

  // `<#stripes> <device>... 1 <health>`: A for a stripe without errors, D for one that had some.
  std::string StatusArgs() const override {
    std::string text = absl::StrCat(devices_.size());
    std::string health;
    for (size_t i = 0; i < devices_.size(); ++i) {
      absl::StrAppend(&text, " ", QuoteWord(devices_[i].name()));
      health.push_back(failed_[i].load(std::memory_order_relaxed) ? 'D' : 'A');
    }
    return absl::StrCat(text, " 1 ", health);
  }

  std::span<const DeviceRef> backings() const override { return devices_; }

 private:
  static uint32_t ClampedBytes(uint64_t sectors) {
    return static_cast<uint32_t>(
        std::min<uint64_t>(Bytes(SectorCount(sectors)).value(), UINT32_MAX & ~(kSectorBytes - 1)));
  }

  BlockLimits LimitsOf(size_t stripe) const {
    return MovedLimits(devices_[stripe].device->limits(), starts_[stripe]);
  }

  size_t StripeOf(Sector sector) const { return (sector.value() / chunk_) % devices_.size(); }

  Sector PlaceOn(size_t stripe, Sector sector) const {
    const uint64_t row = sector.value() / chunk_ / devices_.size();
    return starts_[stripe] + SectorCount(row * chunk_ + sector.value() % chunk_);
  }

  // How many of the row's sectors before `sector` are on the stripe: where its share of a range
  // that begins or ends there begins or ends.
  Sector ShareBefore(size_t stripe, Sector sector) const {
    const uint64_t round = chunk_ * devices_.size();
    const uint64_t in_round = sector.value() % round;
    const uint64_t before = stripe * chunk_;
    const uint64_t part = std::min(chunk_, in_round - std::min(in_round, before));
    return starts_[stripe] + SectorCount(sector.value() / round * chunk_ + part);
  }

  // Discard and write-zeroes: one request for each stripe's whole share of the range.
  Task<IoStatus> SubmitRange(IoRequest request) {
    std::vector<Task<IoStatus>> shares;
    for (size_t stripe = 0; stripe < devices_.size(); ++stripe) {
      IoRequest share = request;
      share.first = ShareBefore(stripe, request.first);
      share.count = ShareBefore(stripe, request.first + request.count) - share.first;
      if (share.count == SectorCount(0)) continue;
      shares.push_back(Watch(devices_[stripe].device->Submit(share), stripe));
    }
    co_return co_await WhenAll(std::move(shares));
  }

  // The stripe stays in use: another try may succeed. What `status` says changes once, and so there
  // is one event.
  void NoteFailure(IoStatus status, size_t stripe) {
    if (status == IoStatus::kOk || status == IoStatus::kNotSupported) return;
    bool news = false;
    for (size_t i = 0; i < devices_.size(); ++i) {
      if (devices_[i].device != devices_[stripe].device) continue;
      news |= !failed_[i].exchange(true, std::memory_order_relaxed);
    }
    if (news) host_.RaiseEvent();
  }

  Task<IoStatus> Watch(Task<IoStatus> below, size_t stripe) {
    const IoStatus status = co_await below;
    NoteFailure(status, stripe);
    co_return status;
  }

  TargetHost& host_;
  const uint64_t chunk_;  // sectors
  const std::vector<DeviceRef> devices_;
  const std::vector<Sector> starts_;
  std::vector<std::atomic<bool>> failed_;
};

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  if (args.left() < 2) return absl::InvalidArgumentError("Not enough arguments");
  ASSIGN_OR_RETURN(const uint64_t stripes, args.Number("Invalid stripe count"));
  if (stripes == 0) return absl::InvalidArgumentError("Invalid stripe count");
  ASSIGN_OR_RETURN(const uint64_t chunk, args.Number("Invalid chunk_size"));
  if (chunk == 0 || chunk > UINT32_MAX) return absl::InvalidArgumentError("Invalid chunk_size");
  const uint64_t length = args.length().value();
  if (length % stripes != 0) {
    return absl::InvalidArgumentError("Target length not divisible by number of stripes");
  }
  if (length / stripes % chunk != 0) {
    return absl::InvalidArgumentError("Target length not divisible by chunk size");
  }
  // Compared so that a huge stripe count cannot wrap.
  if (args.left() % 2 != 0 || args.left() / 2 != stripes) {
    return absl::InvalidArgumentError("Not enough destinations specified");
  }
  std::vector<DeviceRef> devices;
  std::vector<Sector> starts;
  for (uint64_t i = 0; i < stripes; ++i) {
    ASSIGN_OR_RETURN(DeviceRef device, args.Device("Couldn't parse stripe destination"));
    ASSIGN_OR_RETURN(const Sector start, args.Place("Couldn't parse stripe destination"));
    RETURN_IF_ERROR(CheckFits(device, start, SectorCount(length / stripes)));
    devices.push_back(std::move(device));
    starts.push_back(start);
  }
  return std::make_unique<StripedTarget>(args.host(), args.length(), chunk, std::move(devices),
                                         std::move(starts));
}

}  // namespace

const TargetType kStripedTarget{
    .name = "striped",
    .version = "1.6.0",
    .usage = "<#stripes> <chunk sectors> [<device> <first sector>]...",
    .summary = "lays chunks round robin over several devices",
    .create = Create,
};

}  // namespace sectormap::targets
