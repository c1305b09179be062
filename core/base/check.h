// SPDX-License-Identifier: Apache-2.0
// CHECK ends the process on our own mistakes, in every build. Never use it on anything an
// initiator, a file, a peer or a user can cause: those get an answer.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
