# SPDX-License-Identifier: Apache-2.0
"""sectormapd, Debian's tgt and, where it is given, SPDK's iscsi_tgt side by side.

All serve the same file on tmpfs, then memory (mem:, tgt's null store, SPDK's malloc), then the same
file on a disk, as each does it by itself and then all past the page cache. A ratio is sectormapd's
figure over that of tgt's best store, or of SPDK.
"""

import contextlib
import os
import sys

from daemon import Daemon
from measure import SERVER_CORE, VOLUME_MIB, Arm, Case, linear, pin, random_file
from spdk import Spdk
from tgt import Tgt

# Case and the ratio to tgt that it is to reach.
FILE_CASES = {
    "r4k-q1": (Case("randread", 4096, 1), 2.5),
    "r4k-q32": (Case("randread", 4096, 32), 5.0),
    "w4k-q32": (Case("randwrite", 4096, 32), 4.4),
    "r4k-4xq32": (Case("randread", 4096, 32, 4), 4.3),
    "w4k-4xq32": (Case("randwrite", 4096, 32, 4), 4.1),
    "r128k-q8": (Case("read", 131072, 8), 2.0),
    "w128k-q8": (Case("write", 131072, 8), 2.1),
    "r1m-q8": (Case("read", 1048576, 8), 3.4),
}
MEMORY_CASES = {
    "mem-r4k-q32": (Case("randread", 4096, 32), 8.0),
    "mem-w4k-q32": (Case("randwrite", 4096, 32), 5.2),
    "mem-r128k-q8": (Case("read", 131072, 8), 2.1),
    "mem-r1m-q8": (Case("read", 1048576, 8), 2.6),
}
# Ends when each MiB has been written, long before the time is over.
FILL, FILL_SECONDS = Case("write", 1 << 20, 8, options=("--once", str(1 << 20), "--warmup", "0")), 30
DISK_CASES = {
    "disk-r4k-q32": (Case("randread", 4096, 32), None),
    "disk-w4k-q32": (Case("randwrite", 4096, 32), None),
}
DIRECT_CASES = {
    "direct-r4k-q32": (Case("randread", 4096, 32), None),
    "direct-w4k-q32": (Case("randwrite", 4096, 32), None),
    "direct-r128k-q8": (Case("read", 131072, 8), None),
    "direct-w128k-q8": (Case("write", 131072, 8), None),
}
DISK_ROUNDS, DISK_SECONDS = 3, 0.5  # without goals: most of it is what the disk does

# What SPDK took on one morning, and tgt right beside it. The machine's speed has changed by half
# since, from hour to hour: so where SPDK is not at hand a goal in units of tgt's in the same run
# stands in for SPDK's own figure.
# The server's CPU time per I/O, microseconds.
CPU_GOALS = {"r4k-q32": (4.6, 4.6 / 20.3), "mem-r4k-q32": (2.3, 2.3 / 17.1)}
# The 99th percentile: SPDK's aio over tgt's aio on the file, its malloc over tgt's null in memory.
P99_GOALS = {
    "r4k-q1": 75 / 161, "r4k-q32": 252 / 1196, "w4k-q32": 326 / 946, "r4k-4xq32": 1130 / 3473,
    "w4k-4xq32": 1114 / 3146, "r128k-q8": 811 / 1425, "w128k-q8": 909 / 1384,
    "r1m-q8": 5964 / 13238, "mem-r4k-q32": 140 / 1475, "mem-w4k-q32": 188 / 770,
    "mem-r128k-q8": 709 / 1024, "mem-r1m-q8": 4784 / 7078,
}
P99, CPU = "p99_us", "server_us_per_io"


def judge_tgt(bench, group, stores, goal, spdk_at_hand):
    best = max(stores, key=lambda name: bench.median(group, name, "iops") or 0)
    bench.judge(f"{group} over {best}", bench.ratio(group, "sectormapd", best), goal)
    base = stores[0]  # the one that the next goals were measured beside
    if group in P99_GOALS:
        bench.judge(f"{group} p99 over {base}", bench.ratio(group, "sectormapd", base, P99),
                    None if spdk_at_hand else P99_GOALS[group], at_least=False)
    if group in CPU_GOALS:
        most_us, most_ratio = CPU_GOALS[group]
        bench.judge(f"{group} server CPU per I/O", bench.median(group, "sectormapd", CPU), most_us,
                    "us", at_least=False)
        bench.judge(f"{group} server CPU per I/O over {base}",
                    bench.ratio(group, "sectormapd", base, CPU),
                    None if spdk_at_hand else most_ratio, at_least=False)


def judge_spdk(bench, group, goal):
    """SPDK has its core all to itself; where there is a goal, it is to be better than that."""
    bench.judge(f"{group} over spdk", bench.ratio(group, "sectormapd", "spdk"), goal)
    for what, key in (("p99", P99), ("server CPU per I/O", CPU)):
        bench.judge(f"{group} {what} over spdk", bench.ratio(group, "sectormapd", "spdk", key), goal,
                    at_least=False)


def compare(bench, cases, servers, rounds=None, seconds=None):
    """`servers`: name -> (url, pid); sectormapd, tgt's stores and perhaps spdk."""
    stores = [name for name in servers if name.startswith("tgt-")]
    for group, (case, goal) in cases.items():
        bench.interleave(group, {name: Arm(case, url, pid, polls=name == "spdk")
                                 for name, (url, pid) in servers.items()}, rounds, seconds)
        judge_tgt(bench, group, stores, goal, "spdk" in servers)
        if "spdk" in servers:
            judge_spdk(bench, group, goal and 1.0)


def run(bench, directory, disk_directory):
    disk_path = random_file(disk_directory / "disk.img", VOLUME_MIB)
    os.sync()  # what is not on the disk yet would be written while the others are measured

    def daemon(name, *options):
        return Daemon(bench.build_dir, state_dir=directory / name, options=[
            "--reactors", "1", "--device-root", directory, "--device-root", disk_directory, *options])

    with contextlib.ExitStack() as stack:
        path = random_file(directory / "bench.img", VOLUME_MIB)
        cached = stack.enter_context(daemon("cached"))
        cached.cli("create", "file", "--table", linear(VOLUME_MIB, path))
        cached.cli("create", "disk", "--table", linear(VOLUME_MIB, disk_path))
        cached.cli("create", "memory", "--table", linear(VOLUME_MIB, f"mem:{VOLUME_MIB}M"))
        tgt = stack.enter_context(Tgt(directory, [
            ("aio", "aio", path), ("rdwr", "rdwr", path), ("null", "null", "/dev/zero"),
            ("disk-aio", "aio", disk_path), ("disk-rdwr", "rdwr", disk_path)]))
        spdk = bench.spdk and stack.enter_context(Spdk(bench.spdk, directory, {
            "file": (path, VOLUME_MIB), "memory": (None, VOLUME_MIB), "disk": (disk_path, VOLUME_MIB)}))
        for server in (cached, tgt):
            pin(server.pid, SERVER_CORE)

        def servers(ours, name, stores, with_spdk=True):
            """A device of that name, and tgt's stores beside it."""
            found = {"sectormapd": (ours.export(name), ours.pid)}
            found |= {f"tgt-{store}": (tgt.url(store), tgt.pid) for store in stores}
            return found | ({"spdk": (spdk.url(name), spdk.pid)} if spdk and with_spdk else {})

        compare(bench, FILE_CASES, servers(cached, "file", ["aio", "rdwr"]))
        memory = servers(cached, "memory", ["null"])
        # What was never written has no memory yet, and is read from one page of zeroes. (SPDK clears
        # its own when it starts.)
        filled = bench.measure(Arm(FILL, *memory["sectormapd"]), FILL_SECONDS)
        if "error" in filled:
            sys.exit("memory could not be written to: " + filled["error"])
        compare(bench, MEMORY_CASES, memory)
        compare(bench, DISK_CASES, servers(cached, "disk", ["disk-aio", "disk-rdwr"], with_spdk=False),
                DISK_ROUNDS, DISK_SECONDS)
        cached.close()
        os.sync()
        direct = stack.enter_context(daemon("direct", "--file-mode", "direct"))
        direct.cli("create", "disk", "--table", linear(VOLUME_MIB, disk_path))
        pin(direct.pid, SERVER_CORE)
        compare(bench, DIRECT_CASES, servers(direct, "disk", ["disk-aio"]), DISK_ROUNDS, DISK_SECONDS)
