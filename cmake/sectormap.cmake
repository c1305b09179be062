# SPDX-License-Identifier: Apache-2.0
# What every folder's CMakeLists.txt uses: one library per folder, one test binary per test file.

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
pkg_check_modules(URING REQUIRED IMPORTED_TARGET liburing)
pkg_check_modules(ISAL REQUIRED IMPORTED_TARGET libisal)

add_library(sectormap_options INTERFACE)
target_include_directories(sectormap_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(sectormap_options INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wswitch-enum -Werror
  -fno-omit-frame-pointer)
if(SECTORMAP_SANITIZE)
  add_compile_options(-fsanitize=${SECTORMAP_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SECTORMAP_SANITIZE})
  if(SECTORMAP_SANITIZE MATCHES "thread")
    # Debian's Abseil is not instrumented: this tells ThreadSanitizer what its locks order.
    add_library(sectormap_tsan_absl OBJECT cmake/tsan_absl_mutex.cc)
    target_link_libraries(sectormap_tsan_absl PRIVATE absl::synchronization)
    target_link_libraries(sectormap_options INTERFACE
      $<TARGET_OBJECTS:sectormap_tsan_absl> absl::synchronization ${CMAKE_DL_LIBS})
  endif()
endif()
# Without it in the libraries a fuzzer sees nothing of what its bytes reach.
if(SECTORMAP_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# The data path crosses many small functions in many files: optimised across them, a request costs
# the daemon about a twentieth less. The objects hold machine code too, and only the daemon, which
# says so, is linked this way: a hundred test binaries need not wait for it.
set(SECTORMAP_LTO_OPTIONS -flto=thin -ffat-lto-objects)

# sectormap_library(NAME [DATA_PATH] SOURCES file... DEPS library...): a folder's library. DEPS are
# public: they are the folder's doors (docs/architecture.md).
function(sectormap_library name)
  cmake_parse_arguments(ARG "DATA_PATH" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC sectormap_options ${ARG_DEPS})
  if(SECTORMAP_LTO AND ARG_DATA_PATH)
    target_compile_options(${name} PRIVATE ${SECTORMAP_LTO_OPTIONS})
  endif()
endfunction()

# sectormap_test(NAME SOURCES file... DEPS library... [TIMEOUT seconds] [LABELS label...]):
# a GoogleTest binary, one CTest entry.
function(sectormap_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE sectormap_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_precompile_headers(${name} REUSE_FROM sectormap_test_headers)
  # gRPC's users compile with it, and a precompiled header has to agree.
  target_compile_options(${name} PRIVATE -pthread)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(SECTORMAP_SANITIZE)  # up to twenty times slower on a busy machine of two cores
    math(EXPR ARG_TIMEOUT "10 * ${ARG_TIMEOUT}")
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
