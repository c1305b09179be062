// SPDX-License-Identifier: Apache-2.0
#include "core/async/frame_pool.h"

#include <array>
#include <new>

// Under a sanitizer every frame goes to the heap, so that use after free is seen.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SECTORMAP_FRAMES_FROM_HEAP 1
#endif
#endif

namespace sectormap {

#ifdef SECTORMAP_FRAMES_FROM_HEAP

void* AllocateFrame(size_t bytes) { return ::operator new(bytes); }
void FreeFrame(void* frame, size_t) noexcept { ::operator delete(frame); }

#else

namespace {

constexpr size_t kClassBytes = 64;  // a cache line
constexpr size_t kClassCount = 32;  // frames above 2 KiB are rare: login, control
constexpr size_t kFreeFramesMax =
    512;  // per class and thread: at most 32 MiB in all, far less in use

struct FreeFrameNode {
  FreeFrameNode* next;
};

class FramePool {
 public:
  ~FramePool() {
    for (List& list : lists_) {
      while (FreeFrameNode* node = list.head) {
        list.head = node->next;
        ::operator delete(node);
      }
    }
  }

  void* Take(size_t size_class) {
    List& list = lists_[size_class];
    FreeFrameNode* node = list.head;
    if (node == nullptr) return ::operator new((size_class + 1) * kClassBytes);
    list.head = node->next;
    --list.count;
    return node;
  }

  void Give(void* frame, size_t size_class) noexcept {
    List& list = lists_[size_class];
    if (list.count == kFreeFramesMax) {
      ::operator delete(frame);
      return;
    }
    list.head = new (frame) FreeFrameNode{list.head};
    ++list.count;
  }

 private:
  struct List {
    FreeFrameNode* head = nullptr;
    size_t count = 0;
  };
  std::array<List, kClassCount> lists_;
};

FramePool& ThisThreadsPool() {
  thread_local FramePool pool;
  return pool;
}

}  // namespace

void* AllocateFrame(size_t bytes) {
  const size_t size_class = (bytes - 1) / kClassBytes;
  return size_class < kClassCount ? ThisThreadsPool().Take(size_class) : ::operator new(bytes);
}

void FreeFrame(void* frame, size_t bytes) noexcept {
  const size_t size_class = (bytes - 1) / kClassBytes;
  if (size_class < kClassCount) {
    ThisThreadsPool().Give(frame, size_class);
  } else {
    ::operator delete(frame);
  }
}

#endif

}  // namespace sectormap
