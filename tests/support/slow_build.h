// SPDX-License-Identifier: Apache-2.0
// Whether a sanitizer makes every step about ten times slower: who samples states tries fewer then.
#pragma once

namespace sectormap {

#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSlowBuild = true;
#else
inline constexpr bool kSlowBuild = false;
#endif

}  // namespace sectormap
