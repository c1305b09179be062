# SPDX-License-Identifier: Apache-2.0
"""What the daemon takes when nothing happens, at most, and at start; how long a table takes to load."""

import contextlib
import re
import shutil
import sqlite3
import time
import urllib.request

from daemon import IQN_PREFIX, Daemon
from measure import (CLIENT_CORE, SERVER_CORE, VOLUME_MIB, WARMUP_SECONDS, Arm, Case, linear, pin,
                     random_file)

IDLE_SESSIONS, IDLE_CPU_SESSIONS, IDLE_CPU_SECONDS = 1000, 100, 5
HEAVY = {"heavy-read": Case("read", 1 << 20, 128, 256), "heavy-write": Case("write", 1 << 20, 128, 256)}
DEVICES, EXPORTS = 10_000, 1_000
LOADED_ROWS = 1_000_000
SWAPS = 60
SWAP_CASES = {"r4k-q1": Case("randread", 4096, 1, options=("--gaps", "20")),
              "r4k-q32": Case("randread", 4096, 32, options=("--gaps", "20"))}
SWAP_PAUSE_SECONDS = 0.04  # between two calls; the load settles


@contextlib.contextmanager
def one_volume(bench, directory, options=()):
    with Daemon(bench.build_dir, state_dir=directory, options=["--reactors", "1", *options]) as daemon:
        path = random_file(daemon.device_root / "v.img", VOLUME_MIB)
        daemon.cli("create", "v", "--table", linear(VOLUME_MIB, path))
        yield daemon, path, daemon.export("v")


def idle(bench, directory):
    with one_volume(bench, directory) as (daemon, _, url):
        def wait(sessions, seconds):
            case = Case("read", 4096, 1, sessions, ("--idle",))
            return bench.measure(Arm(case, url, daemon.pid), seconds)

        result = wait(IDLE_CPU_SESSIONS, IDLE_CPU_SECONDS)
        bench.judge(f"CPU of {IDLE_CPU_SESSIONS} idle sessions",
                    100 * result["server_cpu_seconds"] / result["seconds"], 0.5, "% core", False)
    with one_volume(bench, directory / "idle") as (daemon, _, url):
        result = wait(IDLE_SESSIONS, 1)
        bench.judge(f"RSS of {IDLE_SESSIONS} idle sessions over the empty daemon",
                    (result["server_rss_kib"] - result["server_rss_before_kib"]) / 1024, 64, "MiB",
                    False)
        bench.judge("RSS of the empty daemon", result["server_rss_before_kib"] / 1024, None, "MiB")


def heavy(bench, directory):
    with one_volume(bench, directory) as (daemon, _, url):
        pin(daemon.pid, SERVER_CORE)
        for group, case in HEAVY.items():
            result = bench.measure(Arm(case, url, daemon.pid))
            bench.keep(group, "sectormapd", result)
            bench.judge(f"peak RSS, {case.sessions} sessions x QD{case.queue_depth} 1 MiB {case.pattern}",
                        result["server_peak_kib"] / 1024, None, "MiB")


def clone_state(database, device_root):
    """Makes many devices, each over a file of its own, and exports of the one device and export."""
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        def rows(table):
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(f"SELECT * FROM {table}")]

        def insert(table, row):
            db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES "
                       f"({', '.join(':' + key for key in row)})", row)

        (device,), (target,), (export,) = rows("device"), rows("target"), rows("export")
        for i in range(1, DEVICES):
            path = device_root / f"d{i}.img"
            with open(path, "wb") as file:
                file.truncate(1 << 20)
            insert("device", device | {"identity": f"{i:08x}" + device["identity"][8:],
                                       "name": f"d{i}", "live_table": linear(1, path)})
            if i < EXPORTS:
                iqn = f"{IQN_PREFIX}:d{i}"
                insert("target", target | {"iqn": iqn})
                insert("export", export | {"iqn": iqn,
                                           "device": f"{i:08x}" + device["identity"][8:]})


def start(bench, directory):
    with Daemon(bench.build_dir, state_dir=directory, options=["--reactors", "1"]) as daemon:
        daemon.thin_volume("d0", 1)
        daemon.export("d0")
        daemon.stop()
        clone_state(directory / "sectormap.db", daemon.device_root)
        times = []
        for _ in range(bench.rounds):
            began = time.monotonic()
            daemon.start()
            times.append(time.monotonic() - began)
            kept = len(daemon.cli("ls").stdout.splitlines())
            daemon.stop()
        if kept != DEVICES:
            raise RuntimeError(f"{kept} devices of {DEVICES} came up")
        bench.judge(f"start with {DEVICES} devices and {EXPORTS} exports", sorted(times)[len(times) // 2],
                    2, "s", False)


def seconds_of_calls(daemon, method):
    """What the daemon counted for all calls of a method so far."""
    with urllib.request.urlopen(daemon.metrics_url) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(
        rf'^sectormap_grpc_request_duration_seconds_sum{{[^}}]*{method}"[^}}]*}} (\S+)$', text, re.M))


def load(bench, directory):
    with one_volume(bench, directory) as (daemon, path, _):
        pages = VOLUME_MIB * 256
        table = directory / "million.table"
        table.write_text("".join(f"{8 * i} 8 linear {path} {8 * (i * 7 % pages)}\n"
                                 for i in range(LOADED_ROWS)))
        whole, inside = [], []
        for _ in range(bench.rounds):
            before, began = seconds_of_calls(daemon, "Load"), time.monotonic()
            daemon.cli("load", "v", "--table-file", table)
            whole.append(time.monotonic() - began)
            inside.append(seconds_of_calls(daemon, "Load") - before)
        bench.judge(f"load of {LOADED_ROWS} rows, `sectormap load`", sorted(whole)[len(whole) // 2], 1,
                    "s", False)
        bench.judge(f"load of {LOADED_ROWS} rows, the daemon's call", sorted(inside)[len(inside) // 2],
                    None, "s")


def longest_gaps(gaps, calls):
    """For each call (begin, end), the longest time without an answer that it touches, in ms."""
    return [max((length for at, length in gaps if at < end and at + length / 1e6 > begin), default=0)
            / 1e3 for begin, end in calls]


def swap(bench, directory):
    with one_volume(bench, directory) as (daemon, path, url):
        for name, case in SWAP_CASES.items():
            arm = Arm(case, url, daemon.pid)
            generator = bench.start(arm, SWAPS * (2 * SWAP_PAUSE_SECONDS + 0.15))
            time.sleep(2 * WARMUP_SECONDS)
            calls = {"swap": [], "info": []}
            while generator.poll() is None and len(calls["swap"]) < SWAPS:
                daemon.cli("load", "v", "--table", linear(VOLUME_MIB, path))
                # `info` costs the machine the same process and call, and stops nothing.
                for kind, verb in (("info", "info"), ("swap", "resume")):
                    time.sleep(SWAP_PAUSE_SECONDS)
                    began = time.monotonic()
                    daemon.cli(verb, "v")
                    calls[kind].append((began, time.monotonic()))
            result = bench.finish(generator)
            bench.keep(f"swap-{name}", "sectormapd", {k: v for k, v in result.items() if k != "gaps"})
            for kind, at_least, goal in (("swap", 50, 2), ("info", 50, None)):
                gaps = sorted(longest_gaps(result["gaps"], calls[kind]))
                value = gaps[len(gaps) // 2] if len(gaps) >= at_least else None
                bench.judge(f"{name}: longest wait for any answer around a {kind}, median", value, goal,
                            "ms", False)


def run(bench, directory, _):
    for step in (idle, heavy, start, load, swap):
        own = directory / step.__name__
        step(bench, own)
        shutil.rmtree(own, ignore_errors=True)
