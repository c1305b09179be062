// SPDX-License-Identifier: Apache-2.0
#include "core/async/frame_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

namespace sectormap {
namespace {

constexpr size_t kSizes[] = {1, 64, 65, 500, 2048, 2049, 100'000};

TEST(FramePoolTest, GivesDistinctMemoryOfTheWholeSize) {
  std::vector<std::pair<unsigned char*, size_t>> frames;
  for (size_t size : kSizes) {
    for (unsigned char byte = 0; byte < 4; ++byte) {
      auto* frame = static_cast<unsigned char*>(AllocateFrame(size));
      std::memset(frame, static_cast<int>(frames.size()), size);
      frames.emplace_back(frame, size);
    }
  }
  for (size_t i = 0; i < frames.size(); ++i) {
    for (size_t at = 0; at < frames[i].second; ++at) ASSERT_EQ(frames[i].first[at], i);
    FreeFrame(frames[i].first, frames[i].second);
  }
}

TEST(FramePoolTest, AlignsForEveryType) {
  for (size_t size : kSizes) {
    void* frame = AllocateFrame(size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(frame) % alignof(std::max_align_t), 0U);
    FreeFrame(frame, size);
  }
}

TEST(FramePoolTest, TakesBackWhatAnotherThreadMade) {
  constexpr int kFrames = 2000;  // more than a thread keeps
  std::vector<void*> frames;
  std::thread maker([&frames] {
    for (int i = 0; i < kFrames; ++i) frames.push_back(AllocateFrame(200));
  });
  maker.join();
  for (void* frame : frames) FreeFrame(frame, 200);
  void* again = AllocateFrame(200);
  std::memset(again, 0xff, 200);
  FreeFrame(again, 200);
}

}  // namespace
}  // namespace sectormap
