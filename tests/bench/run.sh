#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares sectormapd with Debian's tgt on this machine, in at most 15 minutes. Passes its arguments
# to compare.py (--cases, --seconds, --rounds); results go to build/bench.json.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
. deploy/packages.sh
install_packages "${BUILD_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
cmake --preset release >/dev/null
cmake --build --preset release --target sectormapd sectormap load_generator
exec python3 tests/bench/compare.py --build-dir build/release --json build/bench.json "$@"
