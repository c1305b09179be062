// SPDX-License-Identifier: Apache-2.0
// flakey: a device that works for some seconds, then misbehaves for some, and so on
// (drivers/md/dm-flakey.c).
//   <device> <first sector> <up seconds> <down seconds> [<#feature words> <feature words>]
//
// Time counts from the load of the table. While it is down, what the features say happens; without
// any, every I/O fails. Flushes and discards are writes.
#include <atomic>
#include <memory>
#include <random>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/async/reactor_pool.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_spec.h"
#include "core/map/target.h"
#include "targets/builtin_targets.h"

namespace sectormap::targets {
namespace {

constexpr uint64_t kFeatureWordsMax = 11;
constexpr uint64_t kProbabilityBase = 1'000'000'000;  // dm-flakey.c, PROBABILITY_BASE

// The kernel's request flags that exist here (include/linux/blk_types.h): the operation in the low
// byte, and FUA. A mask of corrupt_bio_byte with any other bit matches nothing.
constexpr uint32_t kRequestFua = 1u << 17;
uint32_t KernelFlags(const IoRequest& request) {
  uint32_t flags = 0;
  switch (request.op) {
    case IoOp::kRead:
      break;
    case IoOp::kWrite:
      flags = 1;
      break;
    case IoOp::kFlush:
      flags = 2;
      break;
    case IoOp::kDiscard:
      flags = 3;
      break;
    case IoOp::kWriteZeroes:
      flags = 9;
      break;
  }
  return request.force_unit_access ? flags | kRequestFua : flags;
}

struct Features {
  bool error_reads = false;
  bool error_writes = false;
  bool drop_writes = false;
  // corrupt_bio_byte: the nth byte of a request, from 1; 0: none.
  uint64_t corrupt_byte = 0;
  bool corrupt_is_write = false;
  std::byte corrupt_value{};
  uint32_t corrupt_flags = 0;
  // Of kProbabilityBase.
  uint64_t random_read_corrupt = 0;
  uint64_t random_write_corrupt = 0;

  bool any() const {
    return error_reads || error_writes || drop_writes || corrupt_byte != 0 ||
           random_read_corrupt != 0 || random_write_corrupt != 0;
  }
  std::vector<std::string> Words() const {
    std::vector<std::string> words;
    if (error_reads) words.push_back("error_reads");
    if (drop_writes) words.push_back("drop_writes");
    if (error_writes) words.push_back("error_writes");
    if (corrupt_byte != 0) {
      words.insert(
          words.end(),
          {"corrupt_bio_byte", absl::StrCat(corrupt_byte), corrupt_is_write ? "w" : "r",
           absl::StrCat(std::to_integer<int>(corrupt_value)), absl::StrCat(corrupt_flags)});
    }
    if (random_read_corrupt != 0) {
      words.insert(words.end(), {"random_read_corrupt", absl::StrCat(random_read_corrupt)});
    }
    if (random_write_corrupt != 0) {
      words.insert(words.end(), {"random_write_corrupt", absl::StrCat(random_write_corrupt)});
    }
    return words;
  }
};

class FlakeyTarget final : public Target {
 public:
  FlakeyTarget(SectorCount length, DeviceRef device, Sector start, uint64_t up, uint64_t down,
               const Features& features, const Clock& clock)
      : Target(length),
        device_(std::move(device)),
        start_(start),
        up_(up),
        down_(down),
        features_(features),
        clock_(clock),
        loaded_(clock.Now()),
        random_(std::random_device{}()) {}

  BlockLimits limits() const override { return MovedLimits(device_.device->limits(), start_); }

  Task<IoStatus> Submit(IoRequest request) override {
    if (request.op != IoOp::kFlush) request.first += start_.offset();
    if (!IsDown()) [[likely]] {
      return device_.device->Submit(request);
    }
    if (!features_.any()) return IoStatus::kIoError;
    if (request.op == IoOp::kRead) {
      if (features_.error_reads) return IoStatus::kIoError;
      const bool corrupts = CorruptsByte(request);
      const bool corrupts_any = request.has_data() && Happens(features_.random_read_corrupt);
      if (!corrupts && !corrupts_any) return device_.device->Submit(request);
      return CorruptedRead(request, corrupts, corrupts_any);
    }
    if (features_.drop_writes) return IoStatus::kOk;
    if (features_.error_writes) return IoStatus::kIoError;
    const bool corrupts = CorruptsByte(request);
    const bool corrupts_any = request.op == IoOp::kWrite && Happens(features_.random_write_corrupt);
    if (!corrupts && !corrupts_any) return device_.device->Submit(request);
    return CorruptedWrite(request, corrupts, corrupts_any);
  }

  Task<Extent> ExtentAt(Sector first) override {
    return device_.device->ExtentAt(first + start_.offset());
  }

  bool flush_is_for_backings() const override { return false; }

  std::string TableArgs() const override {
    const std::vector<std::string> words = features_.Words();
    std::string text = absl::StrCat(QuoteWord(device_.name()), " ", start_.value(), " ", up_, " ",
                                    down_, " ", words.size(), " ");
    for (const std::string& word : words) absl::StrAppend(&text, word, " ");
    return text;
  }

  std::span<const DeviceRef> backings() const override { return {&device_, 1}; }

 private:
  bool IsDown() const {
    if (down_ == 0) return false;
    const auto elapsed = std::chrono::floor<std::chrono::seconds>(clock_.Now() - loaded_);
    return static_cast<uint64_t>(elapsed.count()) % (up_ + down_) >= up_;
  }

  bool CorruptsByte(const IoRequest& request) const {
    return features_.corrupt_byte != 0 && request.has_data() &&
           features_.corrupt_is_write == (request.op == IoOp::kWrite) &&
           features_.corrupt_byte <= request.data.size() &&
           (KernelFlags(request) & features_.corrupt_flags) == features_.corrupt_flags;
  }

  // Any reactor: each call takes the next number of one sequence (splitmix64).
  uint64_t NextRandom() {
    constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
    uint64_t value = random_.fetch_add(kStep, std::memory_order_relaxed) + kStep;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
  }
  bool Happens(uint64_t probability) {
    return probability != 0 && NextRandom() % kProbabilityBase < probability;
  }

  void Corrupt(std::span<std::byte> data, bool the_byte, bool any_byte) {
    if (the_byte) data[features_.corrupt_byte - 1] = features_.corrupt_value;
    // Never a byte that stays as it is.
    if (any_byte)
      data[NextRandom() % data.size()] ^= static_cast<std::byte>(1 + NextRandom() % 255);
  }

  Task<IoStatus> CorruptedRead(IoRequest request, bool the_byte, bool any_byte) {
    const IoStatus status = co_await device_.device->Submit(request);
    if (status == IoStatus::kOk) Corrupt(request.data, the_byte, any_byte);
    co_return status;
  }

  // The initiator's bytes stay as they are: a copy is corrupted.
  Task<IoStatus> CorruptedWrite(IoRequest request, bool the_byte, bool any_byte) {
    std::vector<std::byte> copy(request.data.begin(), request.data.end());
    Corrupt(copy, the_byte, any_byte);
    request.data = copy;
    co_return co_await device_.device->Submit(request);
  }

  const DeviceRef device_;
  const Sector start_;
  const uint64_t up_;    // seconds
  const uint64_t down_;  // seconds
  const Features features_;
  const Clock& clock_;
  const MonotonicTime loaded_;
  std::atomic<uint64_t> random_;
};

absl::Status Once(bool& flag, std::string_view name) {
  if (flag) return absl::InvalidArgumentError(absl::StrCat("Feature ", Absl(name), " duplicated"));
  flag = true;
  return absl::OkStatus();
}

// A word with its parameters; `left` counts what the row's feature words still hold.
class FeatureReader {
 public:
  FeatureReader(TargetArgs& args, uint64_t left) : args_(args), left_(left) {}

  absl::StatusOr<Features> Read() {
    while (left_ > 0) {
      ASSIGN_OR_RETURN(const std::string_view word, args_.Word("Insufficient feature arguments"));
      --left_;
      RETURN_IF_ERROR(ReadFeature(absl::AsciiStrToLower(Absl(word))));
    }
    RETURN_IF_ERROR(CheckConflicts());
    return features_;
  }

 private:
  absl::Status ReadFeature(const std::string& name) {
    if (name == "error_reads") return Once(features_.error_reads, name);
    if (name == "drop_writes") {
      RETURN_IF_ERROR(Once(features_.drop_writes, name));
      if (!features_.error_writes) return absl::OkStatus();
      return absl::InvalidArgumentError("Feature drop_writes conflicts with feature error_writes");
    }
    if (name == "error_writes") {
      RETURN_IF_ERROR(Once(features_.error_writes, name));
      if (!features_.drop_writes) return absl::OkStatus();
      return absl::InvalidArgumentError("Feature error_writes conflicts with feature drop_writes");
    }
    if (name == "corrupt_bio_byte") return ReadCorruptByte();
    if (name == "random_read_corrupt") return ReadProbability(features_.random_read_corrupt, name);
    if (name == "random_write_corrupt") {
      return ReadProbability(features_.random_write_corrupt, name);
    }
    return absl::InvalidArgumentError("Unrecognised flakey feature requested");
  }

  absl::Status ReadCorruptByte() {
    if (features_.corrupt_byte != 0) {
      return absl::InvalidArgumentError("Feature corrupt_bio_byte duplicated");
    }
    if (left_ < 4) {
      return absl::InvalidArgumentError("Feature corrupt_bio_byte requires 4 parameters");
    }
    left_ -= 4;
    ASSIGN_OR_RETURN(features_.corrupt_byte, NumberIn(1, UINT32_MAX, "Invalid corrupt bio byte"));
    constexpr std::string_view kBadDirection = "Invalid corrupt bio direction (r or w)";
    ASSIGN_OR_RETURN(const std::string_view word, args_.Word(kBadDirection));
    const std::string direction = absl::AsciiStrToLower(Absl(word));
    if (direction != "r" && direction != "w") {
      return absl::InvalidArgumentError(Absl(kBadDirection));
    }
    features_.corrupt_is_write = direction == "w";
    ASSIGN_OR_RETURN(const uint64_t value,
                     NumberIn(0, 255, "Invalid corrupt value to write into bio byte (0-255)"));
    features_.corrupt_value = static_cast<std::byte>(value);
    ASSIGN_OR_RETURN(const uint64_t flags,
                     NumberIn(0, UINT32_MAX, "Invalid corrupt bio flags mask"));
    features_.corrupt_flags = static_cast<uint32_t>(flags);
    return absl::OkStatus();
  }

  absl::Status ReadProbability(uint64_t& probability, std::string_view name) {
    if (probability != 0) {
      return absl::InvalidArgumentError(absl::StrCat("Feature ", Absl(name), " duplicated"));
    }
    if (left_ == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("Feature ", Absl(name), " requires a parameter"));
    }
    --left_;
    ASSIGN_OR_RETURN(probability, NumberIn(0, kProbabilityBase, "Invalid random corrupt argument"));
    return absl::OkStatus();
  }

  absl::Status CheckConflicts() const {
    if (features_.corrupt_byte == 0 || !features_.corrupt_is_write) return absl::OkStatus();
    if (features_.drop_writes) {
      return absl::InvalidArgumentError(
          "drop_writes is incompatible with corrupt_bio_byte with the WRITE flag set");
    }
    if (features_.error_writes) {
      return absl::InvalidArgumentError(
          "error_writes is incompatible with corrupt_bio_byte with the WRITE flag set");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> NumberIn(uint64_t least, uint64_t most, std::string_view error) {
    ASSIGN_OR_RETURN(const uint64_t number, args_.Number(error));
    if (number < least || number > most) return absl::InvalidArgumentError(Absl(error));
    return number;
  }

  TargetArgs& args_;
  uint64_t left_;
  Features features_;
};

absl::StatusOr<uint64_t> ReadSeconds(TargetArgs& args, std::string_view error) {
  ASSIGN_OR_RETURN(const uint64_t seconds, args.Number(error));
  if (seconds > UINT32_MAX) return absl::InvalidArgumentError(Absl(error));
  return seconds;
}

absl::StatusOr<Features> ReadFeatures(TargetArgs& args) {
  if (args.left() == 0) return Features();
  constexpr std::string_view kBadCount = "Invalid number of feature args";
  ASSIGN_OR_RETURN(const uint64_t count, args.Number(kBadCount));
  if (count > kFeatureWordsMax) return absl::InvalidArgumentError(Absl(kBadCount));
  if (args.left() != count) return absl::InvalidArgumentError("Invalid number of feature args");
  return FeatureReader(args, count).Read();
}

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  if (args.left() < 4) return absl::InvalidArgumentError("Invalid argument count");
  ASSIGN_OR_RETURN(DeviceRef device, args.Device("Device lookup failed"));
  ASSIGN_OR_RETURN(const Sector start, args.Place("Invalid device sector"));
  ASSIGN_OR_RETURN(const uint64_t up, ReadSeconds(args, "Invalid up interval"));
  ASSIGN_OR_RETURN(const uint64_t down, ReadSeconds(args, "Invalid down interval"));
  if (up + down == 0) {
    return absl::InvalidArgumentError("Total (up + down) interval is zero");
  }
  if (up + down > UINT32_MAX) return absl::InvalidArgumentError("Interval overflow");
  ASSIGN_OR_RETURN(const Features features, ReadFeatures(args));
  RETURN_IF_ERROR(CheckFits(device, start, args.length()));
  return std::make_unique<FlakeyTarget>(args.length(), std::move(device), start, up, down, features,
                                        args.host().reactors()[0].clock());
}

}  // namespace

const TargetType kFlakeyTarget{
    .name = "flakey",
    .version = "1.5.0",
    .usage =
        "<device> <first sector> <up seconds> <down seconds> [<#feature words> "
        "[error_reads] [drop_writes|error_writes] "
        "[corrupt_bio_byte <nth byte> <r|w> <value> <flags>] "
        "[random_read_corrupt <of 1000000000>] [random_write_corrupt <of 1000000000>]]",
    .summary = "works for some seconds, then fails, drops or corrupts I/O for some",
    .create = Create,
};

}  // namespace sectormap::targets
