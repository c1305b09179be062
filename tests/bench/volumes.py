# SPDX-License-Identifier: Apache-2.0
"""What snapshots, mirrors and moves cost over the plain LUN, made with the verbs that users type.

First writes hit chunks that nobody has copied: the load writes once into each chunk of the volume
and ends with the last one, so it cannot run out of them; before the next run all snapshots go and as
many new ones are taken. Rewrites come after, when every chunk has its copy.

Stores that are copied to have all their pages, as a disk would: the machine's first touch of a fresh
page can cost more than all that the daemon does with it.
"""

import json
import os
import re
import statistics
import subprocess
import time
import urllib.request

from daemon import Daemon
from measure import (CLIENT_CORE, FOREIGN_CORES_MAX, SERVER_CORE, Arm, Case, linear, pin,
                     random_file)

VOLUME_MIB = 512
STORE_MIB = VOLUME_MIB + 4  # and its metadata: 16 bytes for each chunk

CHUNK_BYTES = 16384  # of `snapshot create` unless told otherwise
COUNTS = (1, 4, 16)  # snapshots
SECONDS = 0.5  # of a run; many cases share two minutes
FIRST_SECONDS_MAX = 3  # a run that comes to the last chunk ends before

ONCE = ("--once", str(CHUNK_BYTES), "--warmup", "0")
FIRST_Q32 = Case("randwrite", 4096, 32, options=ONCE)
FIRST_Q1 = Case("randwrite", 4096, 1, options=ONCE)
WRITES = Case("randwrite", 4096, 32)
READS = Case("randread", 4096, 32)

LEAST_OF_PLAIN = 0.9  # rewrites of an origin, reads of a snapshot
LEAST_OF_ONE = 0.9    # first writes with 16 snapshots over those with one
MOST_FLUSHES = 1 / 8  # per exception, at queue depth 32
LEAST_OF_COPY = 0.8   # a move's speed

DISK_MIB, DISK_ROUNDS, DISK_SECONDS = 128, 3, 1
MOVE_MIB, DISK_MOVE_MIB = 1024, 512
COPY_BYTES = 512 << 10  # what the daemon reads and writes at once, too


class Origin:
    """An exported volume and its snapshots, oldest first."""

    def __init__(self, daemon, name, file, count, store=None):
        """`store` is for the newest snapshot, which alone is copied to. The others' are sparse files
        beside the volume, and so is the newest one's without it."""
        self.daemon, self.name, self.count, self.newest_store = daemon, name, count, store
        self.directory, self.snapshots = file.parent, []
        daemon.cli("create", name, "--table", linear(os.path.getsize(file) >> 20, file))
        self.url = daemon.export(name)

    def renew(self):
        """Takes all snapshots anew: nothing has been copied for any of them."""
        while self.snapshots:
            self.daemon.cli("snapshot", "rm", self.snapshots.pop(0))
        if self.count and self.newest_store:
            with open(self.newest_store, "r+b") as file:
                file.write(bytes(4096))  # no longer a store: that it was one is in its header
        for i in range(self.count):
            name = f"{self.name}-s{i}"
            store = self.newest_store if i + 1 == self.count else None
            self.daemon.cli("snapshot", "create", name, "--of", self.name,
                            "--store", store or self.directory / f"{name}.cow")
            self.snapshots.append(name)

    def arm(self, case):
        return Arm(case, self.url, self.daemon.pid)

    def costs(self):
        """(chunks copied, flushes of stores) so far, of all snapshots that there are."""
        exceptions = flushes = 0
        for snapshot in json.loads(self.daemon.cli("-o", "json", "snapshot", "ls").stdout):
            if snapshot["device"] == self.name:
                sectors = int(snapshot["used_sectors"]) - int(snapshot["metadata_sectors"])
                exceptions += sectors // int(snapshot["chunk_sectors"])
                flushes += backing_requests(self.daemon, snapshot["store"], "flush")
        return exceptions, flushes


def backing_requests(daemon, path, op):
    with urllib.request.urlopen(daemon.metrics_url) as answer:
        text = answer.read().decode()
    labels = f'{{backing="{path}",op="{op}"}}'
    return int(re.search(rf"^sectormap_backing_requests_total{re.escape(labels)} (\d+)$", text,
                         re.M).group(1))


def first_write(bench, origin, case, seconds):
    """One run over chunks that are all shared. What it cost the stores is in the result."""
    while True:
        origin.renew()
        before = origin.costs()
        result = bench.finish(bench.start(origin.arm(case), seconds))
        exceptions, flushes = (now - then for now, then in zip(origin.costs(), before))
        if origin.snapshots and "error" not in result:
            if exceptions < result["ios"]:
                raise RuntimeError(f"{result['ios']} writes copied {exceptions} chunks only")
            result["flushes_per_exception"] = flushes / exceptions
        if result.get("foreign_cores", 0) <= FOREIGN_CORES_MAX or bench.repeats_left <= 0:
            return result
        bench.repeats_left -= 1


def rounds_in_time(bench, group, rounds):
    for number in range(rounds):
        if time.monotonic() > bench.deadline:
            print(f"# out of time: {group} from round {number + 1} on is left out")
            return
        yield number


def first_writes(bench, group, origins, case, seconds, rounds=None):
    for number in rounds_in_time(bench, group, rounds or bench.rounds):
        order = list(origins.items())
        for name, origin in order if number % 2 == 0 else reversed(order):
            bench.keep(group, name, first_write(bench, origin, case, seconds))


def judge_flushes(bench, group, arm, goal=None):
    bench.judge(f"{group} {arm}: store flushes per exception",
                bench.median(group, arm, "flushes_per_exception"), goal, "", at_least=False)


def snapshots(bench, daemon, _):
    origins = {"plain": 0, **{f"snap{count}": count for count in COUNTS}}
    for name, count in origins.items():
        file = random_file(daemon.device_root / f"{name}.img", VOLUME_MIB)
        store = random_file(daemon.device_root / f"{name}.store", STORE_MIB) if count else None
        origins[name] = Origin(daemon, name, file, count, store)
    arms = [name for name in origins if name != "plain"]

    group = "first-w4k-q1"
    first_writes(bench, group, {"snap1": origins["snap1"]}, FIRST_Q1, SECONDS)
    judge_flushes(bench, group, "snap1")

    group = "first-w4k-q32"
    first_writes(bench, group, origins, FIRST_Q32, FIRST_SECONDS_MAX)
    for name in arms:
        bench.judge(f"{group} {name} over plain", bench.ratio(group, name, "plain"), None)
    bench.judge(f"{group} snap16 over snap1", bench.ratio(group, "snap16", "snap1"), LEAST_OF_ONE)
    for name in arms:
        judge_flushes(bench, group, name, MOST_FLUSHES)

    group = "again-w4k-q32"
    bench.interleave(group, {name: origin.arm(WRITES) for name, origin in origins.items()},
                     seconds=SECONDS)
    for name in arms:
        bench.judge(f"{group} {name} over plain", bench.ratio(group, name, "plain"), LEAST_OF_PLAIN)
    read_snapshots(bench, daemon, origins)


def read_snapshots(bench, daemon, origins):
    """Every chunk copied; none, of the newest; none, of the oldest of 16, which looks in them all."""
    origins["snap4"].renew()
    origins["snap16"].renew()
    shown = {"copied": origins["snap1"].snapshots[-1], "shared": origins["snap4"].snapshots[-1],
             "shared oldest": origins["snap16"].snapshots[0]}
    group = "snap-r4k-q32"
    arms = {"plain": origins["plain"].arm(READS)}
    for name, snapshot in shown.items():
        arms[name] = Arm(READS, daemon.export(snapshot), daemon.pid)
    bench.interleave(group, arms, seconds=SECONDS)
    for name in shown:
        bench.judge(f"{group} {name} over plain", bench.ratio(group, name, "plain"), LEAST_OF_PLAIN)


def mirror(bench, daemon, _):
    urls = {}
    for name in ("single", "mirror"):
        file = random_file(daemon.device_root / f"{name}.img", VOLUME_MIB)
        daemon.cli("create", name, "--table", linear(VOLUME_MIB, file))
        urls[name] = daemon.export(name)
    daemon.cli("mirror", "add", "mirror", random_file(daemon.device_root / "leg.img", VOLUME_MIB))
    for group, case in (("mirror-w4k-q32", WRITES), ("mirror-r4k-q32", READS)):
        bench.interleave(group, {"plain": Arm(case, urls["single"], daemon.pid),
                                 "2 legs": Arm(case, urls["mirror"], daemon.pid)}, seconds=SECONDS)
        bench.judge(f"{group} 2 legs over plain", bench.ratio(group, "2 legs", "plain"), None)


def seconds_of(work):
    began = time.monotonic()
    work()
    return time.monotonic() - began


def copy(source, destination):
    subprocess.run(["dd", f"if={source}", f"of={destination}", f"bs={COPY_BYTES}", "conv=fsync",
                    "status=none"], check=True, preexec_fn=lambda: pin(os.getpid(), CLIENT_CORE))


def move(bench, daemon, what, directory, mib, goal, rounds):
    """There and back, next to a copy of the same file into the same directory. Both make it new."""
    name = f"{what}-moved"
    here, there, copy_path = (directory / f"{name}{i}.img" for i in range(3))
    random_file(here, mib)
    daemon.cli("create", name, "--table", linear(mib, here))

    def move_there():
        with open(there, "wb") as file:
            file.truncate(mib << 20)
        daemon.cli("move", name, "--from", here, "--to", there)

    def copy_here():
        copy(here, copy_path)

    times = {"move": [], "copy": []}
    copy_here()  # warm
    for number in rounds_in_time(bench, f"{what} move", rounds):
        works = [("copy", copy_here), ("move", move_there)]
        for kind, work in works if number % 2 == 0 else reversed(works):
            copy_path.unlink(missing_ok=True)
            times[kind].append(seconds_of(work))
            if kind == "move":
                here.unlink()
                here, there = there, here
        copy_path.unlink(missing_ok=True)
    for kind, each in times.items():
        bench.judge(f"{what} {kind} of {mib} MiB", mib / statistics.median(each) if each else None,
                    None, "MiB/s")
    ratios = [copied / moved for copied, moved in zip(times["copy"], times["move"])]
    bench.judge(f"{what} move over copy", statistics.median(ratios) if ratios else None, goal)


def on_disk(bench, daemon, directory):
    origins = {"plain": 0, "snap1": 1, "snap16": 16}
    for name, count in origins.items():
        file = random_file(directory / f"disk-{name}.img", DISK_MIB)
        with open(file, "rb") as written:
            os.fsync(written.fileno())
        origins[name] = Origin(daemon, f"disk-{name}", file, count)
    group = "disk-first-q32"
    first_writes(bench, group, origins, FIRST_Q32, DISK_SECONDS, DISK_ROUNDS)
    for name in ("snap1", "snap16"):
        bench.judge(f"{group} {name} over plain", bench.ratio(group, name, "plain"), None)
        judge_flushes(bench, group, name)


def in_memory_moves(bench, daemon, _):
    move(bench, daemon, "tmpfs", daemon.device_root, MOVE_MIB, LEAST_OF_COPY, bench.rounds)


def disk_moves(bench, daemon, disk):
    move(bench, daemon, "disk", disk, DISK_MOVE_MIB, None, DISK_ROUNDS)


def run(bench, directory, disk):
    for part in (snapshots, mirror, in_memory_moves, on_disk, disk_moves):
        with Daemon(bench.build_dir, state_dir=directory / part.__name__,
                    options=["--reactors", "1", "--device-root", directory / part.__name__ / "devices",
                             "--device-root", disk]) as daemon:
            pin(daemon.pid, SERVER_CORE)
            part(bench, daemon, disk)
        for file in daemon.device_root.iterdir():
            file.unlink()  # it is memory, and the next part needs it
