#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures sectormapd over loopback, much of it side by side with Debian's tgt, in one run.

    bench.py --build-dir build/release [--only compare,layers,...] [--seconds 1] [--rounds 5]
             [--json FILE] [--plot FILE] [--spdk PROGRAM]

Prints medians, then a line for each goal with PASS or BELOW. No test depends on it.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

import measure
import compare
import control
import footprint
import layers
import scaling
import sharing
import volumes

SUITES = {"compare": compare.run, "layers": layers.run, "sharing": sharing.run,
          "footprint": footprint.run, "control": control.run,
          "scaling": scaling.run, "volumes": volumes.run}
BUDGET_SECONDS = 13 * 60  # of the 15 minutes that run.sh may take; rounds after it are left out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build-dir", type=pathlib.Path, required=True)
    parser.add_argument("--only", default=",".join(SUITES), help="of " + ", ".join(SUITES))
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="where to write all results")
    parser.add_argument("--plot", type=pathlib.Path, help="where to draw the suite `scaling` (SVG)")
    parser.add_argument("--spdk", type=pathlib.Path, metavar="PROGRAM",
                        help="SPDK's iscsi_tgt (absolute path): `compare` measures it, too")
    options = parser.parse_args()
    names = options.only.split(",")
    for name in names:
        if name not in SUITES:
            parser.error(f"no suite {name}")
    if options.spdk and not os.access(options.spdk, os.X_OK):
        parser.error(f"--spdk {options.spdk}: no such program")

    bench = measure.Bench(options.build_dir, options.rounds, options.seconds,
                          time.monotonic() + BUDGET_SECONDS, options.spdk)
    for name in names:
        # Short names: a table of a million rows holds the path a million times.
        directory = pathlib.Path(tempfile.mkdtemp(prefix="smb.", dir="/dev/shm"))
        disk = pathlib.Path(tempfile.mkdtemp(prefix="smb.", dir="/var/tmp"))
        began = time.monotonic()
        try:
            SUITES[name](bench, directory, disk)
            print(f"# {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            shutil.rmtree(disk, ignore_errors=True)
    bench.print_runs()
    bench.print_lines()
    if options.plot and "scaling" in names:
        options.plot.write_text(scaling.plot(bench))
        print(f"Plot: {options.plot}")
    if options.json:
        options.json.write_text(json.dumps({
            "machine": " ".join(os.uname()), "cores": os.cpu_count(), "seconds": options.seconds,
            "rounds": options.rounds, "lines": bench.lines, "runs": bench.runs}, indent=1))
        print(f"All results: {options.json}")


if __name__ == "__main__":
    main()
