// SPDX-License-Identifier: Apache-2.0
// Memory for coroutine frames: a free list per thread and size class, so that an I/O does not reach
// the heap. A frame may be freed on another thread than it was made on; it then joins that thread's
// list.
#pragma once

#include <cstddef>

namespace sectormap {

void* AllocateFrame(size_t bytes);
void FreeFrame(void* frame, size_t bytes) noexcept;

}  // namespace sectormap
