// SPDX-License-Identifier: Apache-2.0
#include "targets/mirror/dirty_log.h"

#include <algorithm>
#include <deque>

#include "core/async/when_all.h"

namespace sectormap::targets {

DirtyLog::DirtyLog(DeviceRef device, uint64_t regions, bool read_only, TargetHost& host)
    : device_(std::move(device)),
      read_only_(read_only),
      host_(host),
      image_(regions, device_.device->limits().logical_block_bytes),
      changed_((image_.size().value() + kBlockBytes - 1) / kBlockBytes) {}

void DirtyLog::Fail(char letter) {
  if (health_.exchange(letter, std::memory_order_relaxed) != letter) host_.RaiseEvent();
}

Task<void> DirtyLog::Open(Start start) {
  health_.store('A', std::memory_order_relaxed);
  if (start == Start::kAsLogged) {
    co_await ReadDevice();
  } else {
    image_.SetAll(start == Start::kAllClean);
    is_new_ = true;
  }
  TouchAll();
  if (!read_only_) static_cast<void>(co_await Commit());
}

Task<void> DirtyLog::ReadDevice() {
  std::vector<std::byte> disk(image_.size().value());
  const IoStatus status = co_await device_.device->Submit(IoRequest::Read(Sector(0), disk));
  if (status != IoStatus::kOk) {
    image_.SetAll(false);
    is_new_ = true;
    Fail('D');
    co_return;
  }
  const LogImage::Found found = image_.Read(disk);
  is_new_ = found != LogImage::Found::kLog;
  switch (found) {
    case LogImage::Found::kLog:
    case LogImage::Found::kNothing:
      break;
    case LogImage::Found::kGarbage:  // the kernel makes a new log of it, and so do we
    case LogImage::Found::kTooMany:
      host_.RaiseEvent();
      break;
    case LogImage::Found::kVersion:
      Fail('D');
      break;
  }
}

void DirtyLog::Touch(uint64_t region) {
  changed_[LogImage::ByteOf(region) / kBlockBytes] = true;
  ++wanted_;
}

void DirtyLog::TouchAll() {
  std::fill(changed_.begin(), changed_.end(), true);
  ++wanted_;
}

Task<IoStatus> DirtyLog::MarkDirty(uint64_t first, uint64_t count) {
  while (true) {
    for (uint64_t region = first; region < first + count; ++region) {
      if (!image_.clean(region)) continue;
      image_.SetDirty(region);
      Touch(region);
    }
    if (durable()) co_return IoStatus::kOk;
    const uint64_t mine = wanted_;
    const IoStatus status = co_await Commit();
    if (status != IoStatus::kOk) co_return status;
    // Who cleaned one of them meanwhile may have had it written with this very commit; that
    // another write has its bit at 0 again says nothing of the device.
    if (last_cleaned_ <= mine) co_return IoStatus::kOk;
  }
}

void DirtyLog::SetClean(uint64_t region) {
  image_.SetClean(region);
  Touch(region);
  last_cleaned_ = wanted_;
}

// Returns when what was wanted at the call is durable, or when an attempt to write it has failed.
Task<IoStatus> DirtyLog::Commit() {
  const uint64_t mine = wanted_;
  while (durable_ < mine) {
    if (writing_) {
      co_await written_.Wait();
      if (tried_ >= mine && tried_status_ != IoStatus::kOk) co_return tried_status_;
      continue;
    }
    writing_ = true;
    const uint64_t up_to = wanted_;
    const IoStatus status = co_await WriteChanged();
    writing_ = false;
    tried_ = up_to;
    tried_status_ = status;
    if (status == IoStatus::kOk) durable_ = up_to;
    written_.WakeAll();
    if (status != IoStatus::kOk) co_return status;
  }
  co_return IoStatus::kOk;
}

Task<IoStatus> DirtyLog::WriteChanged() {
  std::vector<bool> blocks = changed_;
  std::fill(changed_.begin(), changed_.end(), false);
  IoStatus status = is_new_ ? co_await WriteBits() : IoStatus::kOk;
  if (status == IoStatus::kOk) status = co_await WriteBlocks(blocks);
  if (status == IoStatus::kOk) {
    is_new_ = false;
  } else {
    for (size_t i = 0; i < blocks.size(); ++i) changed_[i] = changed_[i] || blocks[i];
  }
  co_return status;
}

Task<IoStatus> DirtyLog::WriteBits() {
  const auto bits = image_.bytes().subspan(LogImage::ByteOf(0));
  std::vector<std::byte> copy(bits.begin(), bits.end());
  const Sector place(WholeSectors(ByteCount(LogImage::ByteOf(0))).value());
  const IoStatus written = co_await device_.device->Submit(IoRequest::Write(place, copy));
  if (written != IoStatus::kOk) {
    Fail('D');
    co_return written;
  }
  co_return co_await Flush();
}

// Copies of the blocks: bits change while they are being written.
Task<IoStatus> DirtyLog::WriteBlocks(const std::vector<bool>& blocks) {
  std::deque<std::vector<std::byte>> copies;
  std::vector<Task<IoStatus>> writes;
  for (size_t block = 0; block < blocks.size(); ++block) {
    if (!blocks[block]) continue;
    const size_t first = block;
    while (block + 1 < blocks.size() && blocks[block + 1]) ++block;
    const size_t begin = first * kBlockBytes;
    const size_t end = std::min<size_t>((block + 1) * kBlockBytes, image_.size().value());
    const auto part = image_.bytes().subspan(begin, end - begin);
    std::vector<std::byte>& copy = copies.emplace_back(part.begin(), part.end());
    const Sector place(WholeSectors(ByteCount(begin)).value());
    writes.push_back(device_.device->Submit(IoRequest::Write(place, copy)));
  }
  const IoStatus written = co_await WhenAll(std::move(writes));
  if (written != IoStatus::kOk) {
    Fail('D');
    co_return written;
  }
  co_return co_await Flush();
}

Task<IoStatus> DirtyLog::Flush() {
  const IoStatus flushed = co_await device_.device->Submit(IoRequest::Flush());
  if (flushed != IoStatus::kOk) Fail('F');
  co_return flushed;
}

}  // namespace sectormap::targets
