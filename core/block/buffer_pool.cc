// SPDX-License-Identifier: Apache-2.0
#include "core/block/buffer_pool.h"

#include <sys/mman.h>

#include <bit>
#include <coroutine>
#include <utility>

#include "core/async/reactor.h"
#include "core/base/check.h"
#include "core/base/huge_pages.h"

// Under AddressSanitizer, bytes that nobody holds are poisoned: use after giving back is seen.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#define SECTORMAP_POISON(address, bytes) ASAN_POISON_MEMORY_REGION(address, bytes)
#define SECTORMAP_UNPOISON(address, bytes) ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#endif
#endif
#ifndef SECTORMAP_POISON
#define SECTORMAP_POISON(address, bytes) (static_cast<void>(address), static_cast<void>(bytes))
#define SECTORMAP_UNPOISON(address, bytes) (static_cast<void>(address), static_cast<void>(bytes))
#endif

namespace sectormap {
namespace {

constexpr size_t BlockBytes(int size_class) { return kBufferAlignment << size_class; }
constexpr uint32_t BlockUnits(int size_class) { return uint32_t{1} << size_class; }

uint8_t ClassFor(size_t bytes) {
  const size_t units = (bytes + kBufferAlignment - 1) / kBufferAlignment;
  return static_cast<uint8_t>(std::bit_width(std::bit_ceil(units)) - 1);
}

std::byte* MapRegion(size_t bytes) {
  void* region = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(region != MAP_FAILED);
  PreferHugePages(region, bytes);
  return static_cast<std::byte*>(region);
}

}  // namespace

IoBuffer::IoBuffer(IoBuffer&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      bytes_(std::exchange(other.bytes_, {})),
      size_class_(other.size_class_) {}

IoBuffer& IoBuffer::operator=(IoBuffer&& other) noexcept {
  if (this == &other) return *this;
  if (pool_ != nullptr) pool_->Give(bytes_, size_class_);
  pool_ = std::exchange(other.pool_, nullptr);
  bytes_ = std::exchange(other.bytes_, {});
  size_class_ = other.size_class_;
  return *this;
}

IoBuffer::~IoBuffer() {
  if (pool_ != nullptr) pool_->Give(bytes_, size_class_);
}

// Lives in the frame of the coroutine that waits.
struct BufferPool::Waiter {
  Waiter(BufferPool& pool_to_wait_for, size_t bytes_wanted)
      : pool(pool_to_wait_for), bytes(bytes_wanted) {}

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    handle = waiting;
    *pool.last_waiter_ = this;
    pool.last_waiter_ = &next;
  }
  IoBuffer await_resume() noexcept { return std::move(buffer); }

  BufferPool& pool;
  const size_t bytes;
  std::coroutine_handle<> handle;
  IoBuffer buffer;
  Waiter* next = nullptr;
};

BufferPool::BufferPool(size_t capacity, size_t largest)
    : class_count_(static_cast<int>(std::bit_width(largest / kBufferAlignment))),
      capacity_((capacity + largest - 1) / largest * largest),
      region_(MapRegion(capacity_)),
      heads_(capacity_ / kBufferAlignment) {
  CHECK(std::has_single_bit(largest) && largest >= kBufferAlignment);
  CHECK(class_count_ <= kClassesMax && capacity_ / kBufferAlignment < kNone);
  free_.fill(kNone);
  // In reverse, so that the lowest block is taken first.
  for (size_t place = capacity_; place > 0; place -= largest) {
    Link(static_cast<Unit>((place - largest) / kBufferAlignment), class_count_ - 1);
  }
  SECTORMAP_POISON(region_, capacity_);
}

BufferPool::~BufferPool() {
  CHECK(used() == 0 && first_waiter_ == nullptr);
  SECTORMAP_UNPOISON(region_, capacity_);
  munmap(region_, capacity_);
}

Task<IoBuffer> BufferPool::Take(size_t bytes) {
  std::optional<IoBuffer> buffer = TryTake(bytes);
  if (buffer.has_value()) return *std::move(buffer);
  return WaitFor(bytes);
}

Task<IoBuffer> BufferPool::WaitFor(size_t bytes) {
  // A task starts when it is awaited, which may be after room was made: ask again, or nobody would
  // wake this one.
  std::optional<IoBuffer> buffer = TryTake(bytes);
  if (buffer.has_value()) co_return *std::move(buffer);
  co_return co_await Waiter(*this, bytes);
}

std::optional<IoBuffer> BufferPool::TryTake(size_t bytes) {
  if (first_waiter_ != nullptr) return std::nullopt;
  IoBuffer buffer = TakeBlock(bytes);
  if (!buffer) return std::nullopt;
  return buffer;
}

IoBuffer BufferPool::TakeBlock(size_t bytes) {
  CHECK(bytes > 0 && bytes <= largest());
  const uint8_t wanted = ClassFor(bytes);
  Spares& spares = spares_[wanted];
  Unit unit = spares.count > 0 ? spares.units[--spares.count] : TakeFree(wanted);
  if (unit == kNone && GiveUpSpares()) unit = TakeFree(wanted);
  if (unit == kNone) return {};
  SetUsed(used() + BlockBytes(wanted));

  IoBuffer buffer;
  buffer.pool_ = this;
  buffer.bytes_ = {region_ + unit * kBufferAlignment, bytes};
  buffer.size_class_ = wanted;
  SECTORMAP_UNPOISON(buffer.bytes_.data(), bytes);
  return buffer;
}

BufferPool::Unit BufferPool::TakeFree(int size_class) {
  int found = size_class;
  while (found < class_count_ && free_[found] == kNone) ++found;
  if (found == class_count_) return kNone;
  const Unit unit = free_[found];
  Unlink(unit);
  while (found > size_class) {
    --found;
    Link(unit + BlockUnits(found), found);
  }
  return unit;
}

void BufferPool::Give(std::span<std::byte> bytes, uint8_t size_class) {
  SECTORMAP_POISON(bytes.data(), BlockBytes(size_class));
  SetUsed(used() - BlockBytes(size_class));
  const auto unit =
      static_cast<Unit>(static_cast<size_t>(bytes.data() - region_) / kBufferAlignment);
  Spares& spares = spares_[size_class];
  if (spares.count < kSparesMax) {
    spares.units[spares.count++] = unit;
  } else {
    GiveFree(unit, size_class);
  }
  ServeWaiters();
}

// True if there were any.
bool BufferPool::GiveUpSpares() {
  bool any = false;
  for (int size_class = 0; size_class < class_count_; ++size_class) {
    for (Spares& spares = spares_[size_class]; spares.count > 0; any = true) {
      GiveFree(spares.units[--spares.count], size_class);
    }
  }
  return any;
}

void BufferPool::GiveFree(Unit unit, int size_class) {
  int joined = size_class;
  for (; joined < class_count_ - 1; ++joined) {
    const Unit buddy = unit ^ BlockUnits(joined);
    if (heads_[buddy].free_class != joined) break;
    Unlink(buddy);
    unit &= ~BlockUnits(joined);
  }
  Link(unit, joined);
}

void BufferPool::ServeWaiters() {
  while (first_waiter_ != nullptr) {
    Waiter* waiter = first_waiter_;
    IoBuffer buffer = TakeBlock(waiter->bytes);
    if (!buffer) return;
    first_waiter_ = waiter->next;
    if (first_waiter_ == nullptr) last_waiter_ = &first_waiter_;
    waiter->buffer = std::move(buffer);
    Reactor::Current().Ready(waiter->handle);
  }
}

void BufferPool::Link(Unit unit, int size_class) {
  Head& head = heads_[unit];
  head = {free_[size_class], kNone, static_cast<uint8_t>(size_class)};
  if (head.next != kNone) heads_[head.next].previous = unit;
  free_[size_class] = unit;
}

void BufferPool::Unlink(Unit unit) {
  Head& head = heads_[unit];
  if (head.next != kNone) heads_[head.next].previous = head.previous;
  if (head.previous != kNone) {
    heads_[head.previous].next = head.next;
  } else {
    free_[head.free_class] = head.next;
  }
  head = {};
}

}  // namespace sectormap
