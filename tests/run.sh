#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests need, builds, and runs every test. Exits with 0 only if all of them passed.
#
#   tests/run.sh           everything: release (all tests), dev and tsan (all but the system tests)
#   tests/run.sh --quick   the release build without the system tests
#
# System tests (CTest label `system`) drive the real daemon with foreign initiators: libiscsi's
# suite, QEMU, a guest kernel. The sanitizers run over the rest (docs/testing.md).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. deploy/packages.sh

JOBS=2  # tests at a time: the machine that counts has two cores

quick=0
case ${1:-} in
  '') ;;
  --quick) quick=1 ;;
  -h | --help) sed -n '3,10s/^# \{0,1\}//p' tests/run.sh; exit 0 ;;
  *) sed -n '3,10s/^# \{0,1\}//p' tests/run.sh >&2; exit 2 ;;
esac

install_packages "${BUILD_PACKAGES[@]}" "${DEB_PACKAGES[@]}" "${PROOF_PACKAGES[@]}" \
  "${TEST_PACKAGES[@]}" "${ARM64_PACKAGES[@]}"

summaries=() failed=0

# run PRESET [ctest argument...]: builds the preset and runs its tests.
run() {
  local preset=$1 log=build/$1/run.log summary
  shift
  echo "== $preset: build"
  cmake --preset "$preset" >/dev/null
  if ! cmake --build --preset "$preset" --parallel "$(nproc)"; then
    summaries+=("$preset: the build failed")
    failed=1
    return
  fi
  echo "== $preset: tests"
  ctest --preset "$preset" --parallel "$JOBS" --no-tests=error "$@" 2>&1 | tee "$log" || failed=1
  summary=$(grep -E '^[0-9]+% tests passed' "$log" || echo 'no summary: ctest broke off')
  summaries+=("$preset: $summary")
}

if ((quick)); then
  run release --label-exclude system
else
  run dev --label-exclude system
  run tsan --label-exclude system
  run release
fi

echo
echo "== summary"
printf '%s\n' "${summaries[@]}"
exit "$failed"
