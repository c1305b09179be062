# SPDX-License-Identifier: Apache-2.0
"""What the layers cost: stacks of devices, long tables, stripes, digests."""

import dataclasses
import random

from daemon import Daemon
from measure import SERVER_CORE, SECTORS_PER_MIB, VOLUME_MIB, Arm, Case, linear, pin, random_file

ROWS, ROW_SECTORS = 100_000, 8  # a read of 4 KiB lies in one row
CHUNK_SECTORS = 128
ROUNDS, SECONDS = 9, 0.5  # the differences are small: many short rounds

LAYERS = {"r4k-q32": Case("randread", 4096, 32), "w4k-q32": Case("randwrite", 4096, 32)}
# Arm, over which arm, goal.
LAYER_GOALS = [("stack1", "bare", 0.98), ("stack4", "bare", 0.93), ("rows", "bare", 0.97),
               ("striped2", "bare", 0.95), ("striped8", "bare", 0.95)]
DIGESTS = {
    "r4k-q32": (Case("randread", 4096, 32), 0.75),
    "w4k-q32": (Case("randwrite", 4096, 32), 0.75),
    "r128k-q8": (Case("read", 131072, 8), 0.7),
    "w128k-q8": (Case("write", 131072, 8), 0.7),
}


def many_rows(path):
    """Rows of one page each, in no order on the file; what is left over is one row."""
    places = list(range(ROWS))
    random.Random(1).shuffle(places)
    rows = [f"{i * ROW_SECTORS} {ROW_SECTORS} linear {path} {place * ROW_SECTORS}"
            for i, place in enumerate(places)]
    done = ROWS * ROW_SECTORS
    rows.append(f"{done} {VOLUME_MIB * SECTORS_PER_MIB - done} linear {path} {done}")
    return "\n".join(rows)


def striped(daemon, count):
    size = VOLUME_MIB // count
    files = [random_file(daemon.device_root / f"stripe{count}-{i}.img", size) for i in range(count)]
    stripes = " ".join(f"{file} 0" for file in files)
    return f"0 {VOLUME_MIB * SECTORS_PER_MIB} striped {count} {CHUNK_SECTORS} {stripes}"


def run(bench, directory, _):
    with Daemon(bench.build_dir, state_dir=directory, options=["--reactors", "1"]) as daemon:
        path = random_file(daemon.device_root / "bare.img", VOLUME_MIB)
        tables = {"bare": linear(VOLUME_MIB, path), "stack1": linear(VOLUME_MIB, "bare"),
                  "on1": linear(VOLUME_MIB, "bare"), "on2": linear(VOLUME_MIB, "on1"),
                  "on3": linear(VOLUME_MIB, "on2"), "stack4": linear(VOLUME_MIB, "on3"),
                  "rows": many_rows(path), "striped2": striped(daemon, 2),
                  "striped8": striped(daemon, 8)}
        for name, table in tables.items():
            daemon.cli("create", name, text=table)
        urls = {name: daemon.export(name) for name in tables if not name.startswith("on")}
        pin(daemon.pid, SERVER_CORE)
        for case_name, case in LAYERS.items():
            group = f"layers-{case_name}"
            bench.interleave(group, {name: Arm(case, url, daemon.pid) for name, url in urls.items()},
                             ROUNDS, SECONDS)
            for name, base, goal in LAYER_GOALS:
                bench.judge(f"{group} {name} over {base}", bench.ratio(group, name, base), goal)
        for case_name, (case, goal) in DIGESTS.items():
            group = f"crc-{case_name}"
            with_digests = dataclasses.replace(case, options=("--digests",))
            bench.interleave(group, {"off": Arm(case, urls["bare"], daemon.pid),
                                     "on": Arm(with_digests, urls["bare"], daemon.pid)})
            bench.judge(f"{group} on over off", bench.ratio(group, "on", "off"), goal)
