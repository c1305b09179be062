#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measures sectormapd, much of it beside Debian's tgt, in at most 15 minutes: installs tgt, builds,
# runs bench.py with its own arguments passed on (--only, --seconds, --rounds, --spdk with an absolute
# path), prints the tables with PASS or BELOW for each goal; results go to build/bench.json, the plot to
# build/bench.svg.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
. deploy/packages.sh
install_packages "${BUILD_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
cmake --preset release >/dev/null
cmake --build --preset release --target sectormapd sectormap load_generator
exec /usr/bin/python3 tests/bench/bench.py --build-dir build/release --json build/bench.json \
  --plot build/bench.svg "$@"
