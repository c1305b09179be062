#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A table of very many rows goes through the real command into the real daemon and comes back.

    large_table_test.py --build-dir build/release [--rows 1000000]

Prints how long each verb took and the daemon's memory; neither decides anything.
"""

import argparse
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from daemon import Daemon  # noqa: E402

ROW_SECTORS = 8
GRPC_DEFAULT_BYTES = 4 * 1024 * 1024  # less than this would prove nothing
BACKING = "mem:4M"


def table_of(rows):
    """Rows that differ, so that none can be mistaken for another, and cannot be joined."""
    blocks = 4 * 1024 * 1024 // 512 // ROW_SECTORS
    return "".join(
        f"{i * ROW_SECTORS} {ROW_SECTORS} linear {BACKING} {(i * 7 + i // blocks) % blocks * ROW_SECTORS}\n"
        for i in range(rows))


def resident_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build-dir", required=True)
    parser.add_argument("--rows", type=int, default=160_000)
    options = parser.parse_args()
    table = table_of(options.rows)
    if len(table) <= GRPC_DEFAULT_BYTES:
        sys.exit(f"{len(table)} bytes of table are too few: gRPC takes them without being asked")

    with Daemon(options.build_dir) as daemon:
        def timed(*words, stdin=None):
            start = time.monotonic()
            answer = daemon.cli(*words, text=stdin)
            print(f"{words[0]:8} {time.monotonic() - start:6.2f} s, daemon "
                  f"{resident_mib(daemon.pid):7.1f} MiB", flush=True)
            return answer.stdout

        def check(what, got):
            if got != table:
                sys.exit(f"{what}: the table came back different ({len(got)} bytes of {len(table)})")

        print(f"{options.rows} rows, {len(table)} bytes; daemon {resident_mib(daemon.pid):.1f} MiB")
        timed("create", "big", "--table", "0 8 zero")
        timed("load", "big", "--table-file", "-", stdin=table)
        check("table --inactive", timed("table", "--inactive", "big"))
        timed("resume", "big")
        check("table", timed("table", "big"))
        if len(timed("status", "big").splitlines()) != options.rows:
            sys.exit("status: not a line for each row")
        daemon.kill()
        start = time.monotonic()
        daemon.start()
        print(f"restart  {time.monotonic() - start:6.2f} s, daemon {resident_mib(daemon.pid):7.1f} MiB")
        check("table after kill -9", timed("table", "big"))
        timed("remove", "big")


if __name__ == "__main__":
    main()
