#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles the data path for arm64 with Debian's cross headers, and runs the tests of what depends
# on the processor under QEMU's user emulation.
#
#   tests/arm64/arm64_test.sh WORK_DIR
#
# Abseil, OpenSSL and ISA-L are there for this machine's processor only: their headers do, but what
# needs them is compiled and not linked.
set -euo pipefail
(($# == 1)) || { sed -n '3,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "$(readlink -f "$0")")/../.."
. deploy/packages.sh

missing=$(missing_packages "${ARM64_PACKAGES[@]}")
[[ -z $missing ]] || { echo "not tested: install" $missing "(tests/run.sh does)" >&2; exit 1; }

TRIPLE=aarch64-linux-gnu
GOOGLETEST=/usr/src/googletest/googletest
JOBS=$(nproc)
OWN=(-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wswitch-enum -Werror)  # as in cmake/
COMPILE=(clang++-19 "--target=$TRIPLE" -std=c++20 -O1 -I.)
work=$1
rm -rf "$work/objects"
mkdir -p "$work/objects" "$work/include"
# What Debian keeps of OpenSSL for each processor says nothing that differs between those of 64 bits.
ln -sfn /usr/include/*-linux-gnu/openssl "$work/include/openssl"
COMPILE+=(-idirafter "$work/include")

# What most sources include, once: it is what takes the time.
cat >"$work/common.h" <<'EOF'
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/map/device_registry.h"
#include "server/iscsi/connection.h"
#include "server/scsi/logical_unit.h"
EOF
"${COMPILE[@]}" "${OWN[@]}" -x c++-header -fpch-instantiate-templates "$work/common.h" -o "$work/common.pch"

mapfile -t sources < <(printf '%s\n' core/*/*.cc targets/*.cc server/scsi/*.cc server/iscsi/*.cc)
((${#sources[@]} > 50)) || { echo "only ${#sources[@]} sources found" >&2; exit 1; }
printf '%s\n' "${sources[@]}" |
  xargs -P "$JOBS" -n 8 "${COMPILE[@]}" "${OWN[@]}" -include-pch "$work/common.pch" -fsyntax-only
echo "${#sources[@]} sources compile for $TRIPLE"

# The B-tree with its NEON search against the portable one, and what packs and reads the wire.
tests=(
  core/base/io_status.cc tests/core/base/io_status_test.cc
  core/map/btree_index.cc tests/core/map/btree_index_test.cc tests/support/random.cc
  server/iscsi/pdu.cc tests/server/iscsi/pdu_test.cc
)
printf '%s\n' "${tests[@]}" |
  xargs -P "$JOBS" -I{} sh -c 'out=$0/objects/$(echo "$1" | tr / _).o; shift; "$@" -c {} -o "$out"' \
    "$work" {} "${COMPILE[@]}" "${OWN[@]}"
for source in gtest-all gtest_main; do
  object=$work/$source.o
  [[ -e $object ]] || "${COMPILE[@]}" -I"$GOOGLETEST" -c "$GOOGLETEST/src/$source.cc" -o "$object"
done
"${COMPILE[@]}" -fuse-ld=lld-19 "$work"/*.o "$work"/objects/*.o -o "$work/arm64_tests"
qemu-aarch64 -L "/usr/$TRIPLE" "$work/arm64_tests" --gtest_brief=1
